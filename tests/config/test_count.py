import dataclasses

import pytest

from gorae.config import PRESETS, count_parameters, experts_chosen, forward_flops, training_flops, weights_read

V3 = PRESETS["deepseek-v3"]


def test_v3_has_the_published_parameters():
    counted = count_parameters(V3)
    assert counted.total == 671_026_419_200
    assert counted.active == 37_552_297_472
    assert counted.active - V3.vocab_size * V3.model_dim == pytest.approx(36.6e9, rel=1e-3)  # the paper's 36.7B


def test_v3_mtp_module_adds_its_own_weights_only():
    # README_WEIGHTS gives 11.5B unique weights for the module, embedding and head being shared.
    assert count_parameters(V3, with_mtp=True).total - count_parameters(V3).total == pytest.approx(11.5e9, rel=0.01)
    assert count_parameters(dataclasses.replace(V3, num_mtp_modules=0), with_mtp=True) == count_parameters(V3)


def test_v3_training_costs_the_published_flops_a_token():
    without_mtp = dataclasses.replace(V3, num_mtp_modules=0)
    assert forward_flops(V3, 1, context=2048) == pytest.approx(83.5e9, rel=1e-3)
    assert training_flops(without_mtp, 1, context=2048) == pytest.approx(250.4e9, rel=5e-4)
    assert training_flops(V3, 1, context=2048) == pytest.approx(260.6e9, rel=5e-4)


def test_flops_grow_with_tokens_and_with_context():
    assert forward_flops(V3, 1000, context=2048) == pytest.approx(1000 * forward_flops(V3, 1, context=2048))
    a_key_more = forward_flops(V3, 1, context=2049) - forward_flops(V3, 1, context=2048)
    assert a_key_more == pytest.approx(2 * 61 * 128 * (192 + 128), rel=1e-6)


def test_a_step_reads_the_active_weights_and_a_row_of_the_embedding():
    table = V3.vocab_size * V3.model_dim
    assert weights_read(V3) == pytest.approx(count_parameters(V3).active - table + V3.model_dim)
    tied = dataclasses.replace(V3, tie_embeddings=True)
    assert weights_read(tied) == pytest.approx(count_parameters(tied).active + V3.model_dim)


def test_a_long_prompt_reads_every_expert_and_no_step_more_than_all():
    assert experts_chosen(V3, 1) == pytest.approx(8)
    assert experts_chosen(V3, 2) == pytest.approx(2 * 8 - 8 * 8 / 256)  # those that both chose are read once
    assert experts_chosen(V3, 4096) == pytest.approx(256)
    assert weights_read(V3, 4096) == pytest.approx(count_parameters(V3).total - (V3.vocab_size - 4096) * V3.model_dim)

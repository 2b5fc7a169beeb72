from dataclasses import replace

import pytest
import torch

from gorae.config import PRESETS, ModelConfig, count_parameters, weights_read
from gorae.kernels import HeldExperts, pack
from gorae.model import Network, weight_bytes_read

SMALL = replace(
    PRESETS["deepseek-v3"],
    vocab_size=64,
    model_dim=32,
    num_layers=3,
    num_heads=2,
    query_rank=16,
    latent_dim=16,
    nope_dim=8,
    rope_dim=4,
    value_dim=8,
    dense_dim=48,
    expert_dim=16,
    num_experts=8,
    num_active_experts=2,
    num_expert_groups=1,
    num_active_groups=1,
    num_dense_layers=1,
)
DENSE = ModelConfig.dense(
    vocab_size=61, model_dim=24, num_layers=2, num_heads=6, head_dim=4, dense_dim=28, tie_embeddings=True
)


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, router="softmax"), DENSE])
@pytest.mark.parametrize("num_tokens", [1, 3, 50])
def test_a_network_in_float32_reads_four_bytes_of_every_weight_the_arithmetic_counts(config, num_tokens):
    network = Network(config)
    assert weight_bytes_read(network, num_tokens) == pytest.approx(4 * weights_read(config, num_tokens))


def test_every_weight_is_read_once_by_as_many_tokens_as_there_are_words():
    config = replace(SMALL, num_active_experts=8)
    assert weight_bytes_read(Network(config), 64) == pytest.approx(4 * count_parameters(config).total)


def test_what_stands_in_a_parameters_place_counts_with_the_bytes_it_has():
    network = Network(SMALL)
    whole = weight_bytes_read(network, 1e9)  # so many tokens choose every expert
    moe = network.blocks[1].feed_forward
    stacked = moe.gate_EFD.detach()
    del moe.gate_EFD
    moe.gate_EFD = HeldExperts(pack(one, 4) for one in stacked)
    packed = sum(one.packed.nbytes for one in moe.gate_EFD)
    assert 0 < packed < stacked.nbytes
    assert weight_bytes_read(network, 1e9) == pytest.approx(whole - stacked.nbytes + packed)
    assert weight_bytes_read(network, 1) < weight_bytes_read(network, 4)


def test_an_embedding_as_stored_counts_its_rows_alone():
    network = Network(SMALL)
    before = weight_bytes_read(network, 1)
    table = network.embedding_WD.detach().bfloat16()
    del network.embedding_WD
    network.embedding_WD = table
    assert before - weight_bytes_read(network, 1) == pytest.approx(2 * SMALL.model_dim)
    assert isinstance(network.embedding_WD, torch.Tensor)

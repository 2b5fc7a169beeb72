"""The trainer differentiates what the engine sampled; and the measurement that says so can say otherwise."""

import pytest
import torch

from gorae.posttrain import Parity, measure_parity, parity

NUM_TOKENS = 40


@pytest.fixture(params=[1, 2])
def num_threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_log_probs_agree_within_1e_5_and_every_routing_decision_is_identical(model, prompts, num_threads):
    measured = measure_parity(model, prompts, num_tokens=4, seed=7)
    assert measured.max_difference <= 1e-5
    assert measured.routing_disagreements == 0


def test_log_probs_agree_to_the_last_bit(model, prompts):
    """The second law: in this build, engine and trainer are the same numbers, not numbers close to each other."""
    measured = measure_parity(model, prompts, num_tokens=NUM_TOKENS, seed=7)
    assert measured.max_difference == 0.0
    assert measured.is_exact


def test_every_sampled_token_and_every_decision_about_prompts_and_replies_is_compared(model, prompts):
    measured = measure_parity(model, prompts, num_tokens=NUM_TOKENS)
    num_positions = sum(len(prompt) + NUM_TOKENS - 1 for prompt in prompts)
    assert measured.num_tokens == 6 * NUM_TOKENS
    assert measured.num_routings == 2 * num_positions  # two layers with experts


@pytest.mark.parametrize(("chosen", "num_tokens"), [([1], 1), ([1, 1], 5), ([0, 3], 1), ([1, 0, 5, 2], 3)])
def test_single_tokens_and_equal_prompts_are_compared_too(model, prompts, chosen, num_tokens):
    measured = measure_parity(model, [prompts[place] for place in chosen], num_tokens=num_tokens)
    assert measured.is_exact
    assert measured.num_routings == 2 * sum(len(prompts[place]) + num_tokens - 1 for place in chosen)


def between_the_passes(monkeypatch, change) -> None:
    """Run `change` after the engine has sampled and before the trainer reads."""
    pad_batch = parity.pad_batch
    monkeypatch.setattr(parity, "pad_batch", lambda *args, **named: (change(), pad_batch(*args, **named))[1])


@torch.no_grad()
def test_the_measurement_sees_one_weight_changed_in_its_fourth_digit(model, prompts, monkeypatch):
    between_the_passes(monkeypatch, lambda: model.network.blocks[0].feed_forward.down_DF[3, 4].mul_(1.001))
    measured = measure_parity(model, prompts, num_tokens=NUM_TOKENS)
    assert 0 < measured.max_difference < 0.1
    assert not measured.is_exact


@torch.no_grad()
def test_the_measurement_sees_a_decision_changed_at_one_token_of_a_prompt(model, prompts, monkeypatch):
    """The expert that comes fourth for that token is lifted over the third, and for no other token by more."""
    router = model.network.blocks[2].feed_forward
    seen = []
    hook = router.register_forward_hook(lambda _, inputs, output: seen.append(output[1]))
    model.network(torch.tensor([prompts[3]]))
    hook.remove()
    last = seen[0].experts_NA[-1].tolist()
    expert = next(expert for expert in range(8) if expert not in last)
    between_the_passes(monkeypatch, lambda: router.bias_E[expert].add_(10.0))
    measured = measure_parity(model, prompts[3:4], num_tokens=1)
    assert 0 < measured.routing_disagreements <= measured.num_routings // 2
    assert not measured.is_exact


def test_a_measurement_is_exact_only_without_any_difference():
    assert Parity(0.0, 0, 1, 1).is_exact
    assert not Parity(1e-9, 0, 1, 1).is_exact
    assert not Parity(0.0, 1, 1, 1).is_exact


def test_a_prompt_without_room_for_the_tokens_is_refused(model):
    with pytest.raises(ValueError, match="a prompt of 250 tokens and num_tokens=7 exceed the 256 positions"):
        measure_parity(model, [[5], [5] * 250], num_tokens=7)

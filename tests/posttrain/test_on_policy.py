"""On-policy distillation: exact on the student's own tokens, and two estimators of one gradient."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from gorae.engine import SamplingParams
from gorae.model import Network
from gorae.posttrain import (
    OnPolicyBatch,
    OnPolicySettings,
    Rollout,
    logit_loss,
    on_policy_batch,
    on_policy_loss,
    reverse_kl,
)
from gorae.train import policy_outputs


@pytest.fixture
def teacher(config) -> Network:
    return Network(replace(config, model_dim=20), seed=7).eval().requires_grad_(False)


@pytest.mark.parametrize("estimator", ["full", "sampled"])
@pytest.mark.parametrize("most", [1 << 24, 5 * 67])
def test_the_student_says_of_its_tokens_what_the_engine_said_bit_for_bit(
    model, teacher, roll, estimator, most, monkeypatch
):
    monkeypatch.setattr("gorae.posttrain.divergence.in_chunks.__kwdefaults__", {"most": most})
    batch = on_policy_batch(roll(SamplingParams(max_tokens=9)), teacher, pad_id=0)
    assert torch.equal(policy_outputs(model.network, batch).log_probs_N, batch.sampled_log_probs_N)
    figures = on_policy_loss(model.network, batch, teacher=teacher, estimator=estimator).figures
    assert figures["mismatch_kl"] == figures["ratio_max"] == 0


def test_the_loss_is_the_mean_divergence_over_all_tokens_that_the_student_wrote(model, teacher, roll):
    rollouts = roll(SamplingParams(max_tokens=9))
    lost, logs = [], []
    for one in rollouts:
        row = torch.tensor([one.prompt_ids + one.reply_ids])
        at = slice(len(one.prompt_ids) - 1, -1)
        sides = [n.logits(n(row).hidden_BTD[0, at]).double().log_softmax(-1) for n in (model.network, teacher)]
        lost += reverse_kl(*sides).tolist()
        ids = torch.tensor(one.reply_ids)[:, None]
        logs += (sides[0].gather(1, ids) - sides[1].gather(1, ids))[:, 0].tolist()
    batch = on_policy_batch(rollouts, teacher, pad_id=0)
    full = on_policy_loss(model.network, batch, teacher=teacher)
    sampled = on_policy_loss(model.network, batch, teacher=teacher, estimator="sampled")
    assert full.total.item() == pytest.approx(sum(lost) / len(lost), rel=1e-5)
    assert sampled.total.item() == pytest.approx(sum(logs) / len(logs), rel=1e-5)
    assert full.figures["teacher_kl"] == sampled.figures["teacher_kl"] == full.total.item()


def test_tokens_that_an_environment_wrote_are_read_and_not_learnt(model, teacher, roll):
    (one,) = roll(SamplingParams(max_tokens=6), num_prompts=1, num_samples=1)
    is_sampled = [True, True, False, False, True, True]
    written = replace(one, is_sampled=is_sampled, log_probs=[one.log_probs[place] for place in (0, 1, 4, 5)])
    whole, part = (on_policy_batch([rollout], teacher, pad_id=0) for rollout in (one, written))
    assert torch.equal(part.features_NX, whole.features_NX[is_sampled])
    assert part.figures["completions/mean_length"] == 4
    assert on_policy_loss(model.network, part, teacher=teacher).figures["mismatch_kl"] == 0


def test_rewards_are_reported_and_teach_nothing(model, teacher, roll):
    params = SamplingParams(max_tokens=5)
    one = on_policy_batch(roll(params, reward=lambda number, output: 1.0), teacher, pad_id=0)
    other = on_policy_batch(roll(params, reward=lambda number, output: None if number else 0.5), teacher, pad_id=0)
    losses = [on_policy_loss(model.network, batch, teacher=teacher) for batch in (one, other)]
    assert losses[0].total.item() == losses[1].total.item()
    assert [loss.figures["reward"] for loss in losses] == [1.0, 0.5]
    assert losses[1].figures["completions/ungraded_ratio"] == pytest.approx(2 / 3)


def test_both_estimators_have_one_gradient_on_average_and_the_full_one_has_less_variance(config):
    """Every reply of two tokens from a vocabulary of five, weighed with the chance that the student writes it."""
    shape = replace(config, vocab_size=5, num_layers=1, num_dense_layers=1, init_std=0.6)
    student, teacher = Network(shape, seed=1), Network(shape, seed=2).requires_grad_(False)
    gradients: dict[str, list[torch.Tensor]] = {"full": [], "sampled": []}
    chances = []
    for reply in product(range(5), repeat=2):
        one = Rollout([4, 2], list(reply), [0.0, 0.0], None, prompt=0, finish_reason="length")
        batch = on_policy_batch([one], teacher, pad_id=0)
        with torch.no_grad():
            log_probs_N = policy_outputs(student, batch).log_probs_N
        chances.append(log_probs_N.double().sum().exp())
        batch = replace(batch, sampled_log_probs_N=log_probs_N)
        assert isinstance(batch, OnPolicyBatch)
        for estimator, found in gradients.items():
            total = on_policy_loss(student, batch, teacher=teacher, estimator=estimator).total
            parts = torch.autograd.grad(total, list(student.parameters()), allow_unused=True)
            found.append(torch.cat([part.flatten() for part in parts if part is not None]).double())
    chance_S = torch.stack(chances)
    assert chance_S.sum().item() == pytest.approx(1, abs=1e-5)
    mean, variance = {}, {}
    for estimator, found in gradients.items():
        gradient_SN = torch.stack(found)
        mean[estimator] = chance_S @ gradient_SN
        variance[estimator] = (chance_S @ (gradient_SN - mean[estimator]).square().sum(1)).item()
    assert mean["full"].abs().max() > 0.01
    torch.testing.assert_close(mean["full"], mean["sampled"], rtol=1e-4, atol=1e-5)  # the network is of float32
    assert variance["full"] < variance["sampled"] / 2


def test_learning_brings_the_student_to_its_teacher(model, teacher, roll):
    batch = on_policy_batch(roll(SamplingParams(max_tokens=9)), teacher, pad_id=0)
    optimizer = torch.optim.SGD(model.network.parameters(), lr=0.05)
    first = last = on_policy_loss(model.network, batch, teacher=teacher)
    for _ in range(10):
        last.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        last = on_policy_loss(model.network, batch, teacher=teacher)
    assert last.figures["teacher_kl"] < 0.8 * first.figures["teacher_kl"]
    assert logit_loss(model.network, batch, teacher=teacher).total.item() > 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"estimator": "half"}, "estimator=half must be one of full, sampled"),
        ({"num_prompts": 0}, "num_prompts=0 must be at least 1"),
        ({"steps": 0}, "num_steps=0 must be at least 1"),
    ],
)
def test_settings_that_can_not_be_are_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        OnPolicySettings(**changes)

"""Sampling at a temperature, cut by top-k, top-p and min-p: the ratio is that of what tokens were drawn from.

The set of tokens kept is that of sampling time (arXiv 2512.02556 calls keeping it a mask), so that a token which has
left or joined the likeliest since has its ratio all the same.
"""

import math
from dataclasses import replace

import pytest
import torch

from gorae.checkpoint import Model
from gorae.engine import Engine
from gorae.model import Network
from gorae.posttrain import GrpoSettings, mini_batch, policy_batch, policy_loss, sample_rollouts
from gorae.train import HybridOptimizer, OptimizerSettings, Sampling, policy_outputs, update
from gorae.train.loss import drawn_from

CUTS = [
    {"temperature": 0.7},
    {"temperature": 1.6},
    {"top_k": 5},
    {"top_p": 0.8},
    {"min_p": 0.3},
    {"temperature": 0.8, "top_k": 9, "top_p": 0.9, "min_p": 0.02},
]


def reward(number, output) -> float:
    return float(sum(output.token_ids))


def sampled(model, prompts, settings, **options):
    params = replace(settings.sampling(routings=True), ignore_eos=True)
    return sample_rollouts(Engine(model, **options), prompts[:4], reward, num_samples=4, params=params, seed=2)


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("options", [{}, {"max_batch": 5}, {"speculation": "ngram"}], ids=str)
def test_on_policy_every_ratio_is_1_whatever_is_cut(model, prompts, cut, options):
    settings = GrpoSettings(num_samples=4, max_tokens=20, **cut)
    batch = policy_batch(sampled(model, prompts, settings, **options), settings, pad_id=2)
    figures = policy_loss(model.network, batch, settings=settings).figures
    assert (figures["ratio_max"], figures["routing_flips"], figures["mismatch_kl"]) == (0.0, 0.0, 0.0)
    blind = policy_loss(model.network, replace(batch, sampling=None), settings=settings).figures
    assert blind["ratio_max"] > 0.05, "the network's own softmax is not what they were drawn from"


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_bfloat16_weights_have_ratio_1_too(config, prompts, cut):
    network = Network(config, seed=4).requires_grad_(False)
    for parameter in network.parameters():
        parameter.data = parameter.data.bfloat16() if parameter.ndim > 1 else parameter.data
    settings = GrpoSettings(num_samples=4, max_tokens=12, **cut)
    batch = policy_batch(sampled(Model(network, config, None), prompts, settings), settings, pad_id=2)
    assert policy_loss(network, batch, settings=settings).figures["ratio_max"] == 0.0


def test_the_distribution_by_hand():
    """Of tokens with 0.1, 0.5, 0.15 and 0.25 the second and the last, at temperature 1/2, have 4 parts of 5 and 1."""
    log_probs_NW = torch.tensor([[0.1, 0.5, 0.15, 0.25]] * 2, dtype=torch.float64).log()
    found_NW = drawn_from(log_probs_NW, Sampling(0.5, [torch.tensor([1, 3]), None])).exp()
    squares = [0.1**2, 0.5**2, 0.15**2, 0.25**2]
    assert found_NW[0].tolist() == pytest.approx([0, 0.8, 0, 0.2])
    assert found_NW[1].tolist() == pytest.approx([one / sum(squares) for one in squares])


def test_its_gradient_by_hand_and_by_finite_differences():
    """d log q(i) / d logit(j) = (1 if i is j, less q(j)) / temperature among those kept, and 0 for the others."""
    temperature, kept, token = 0.5, [0, 1, 3], 1
    logits_1W = torch.tensor([[0.3, -0.4, 2.0, 0.9, -1.0]], dtype=torch.float64, requires_grad=True)

    def log_prob(logits_1W: torch.Tensor) -> torch.Tensor:
        sampling = Sampling(temperature, [torch.tensor(kept)])
        return drawn_from(logits_1W.log_softmax(-1), sampling)[0, token]

    (found_1W,) = torch.autograd.grad(log_prob(logits_1W), logits_1W)
    weights = {place: math.exp(logits_1W[0, place].item() / temperature) for place in kept}
    q = {place: weight / sum(weights.values()) for place, weight in weights.items()}
    by_hand = [((place == token) - q[place]) / temperature if place in q else 0.0 for place in range(5)]
    assert found_1W[0].tolist() == pytest.approx(by_hand, abs=1e-12)
    for place, step_W in enumerate(1e-6 * torch.eye(5, dtype=torch.float64)):
        with torch.no_grad():
            slope = (log_prob(logits_1W + step_W) - log_prob(logits_1W - step_W)).item() / 2e-6
        assert slope == pytest.approx(by_hand[place], abs=1e-8)


def test_the_loss_has_the_gradient_of_the_tempered_and_cut_log_probs(model, prompts):
    """On policy: -Σ A log q / tokens, with q written out as a softmax over the tokens kept."""
    settings = GrpoSettings(num_samples=4, max_tokens=6, temperature=0.8, top_k=7)
    rollouts = sampled(model, prompts, settings)
    batch = policy_batch(rollouts, settings, pad_id=2)
    (found,) = torch.autograd.grad(policy_loss(model.network, batch, settings=settings).total, model.network.head_WD)
    rows = (rollout for rollout in rollouts)
    total, first = torch.zeros((), dtype=torch.float64), 0
    for one in rows:
        ids_T = torch.tensor(one.prompt_ids + one.reply_ids)
        logits_NW = model.network.logits(model.network(ids_T[None, :-1]).hidden_BTD[0, len(one.prompt_ids) - 1 :])
        for logits_W, token, kept_K in zip(logits_NW.double(), one.reply_ids, one.kept_ids, strict=True):
            assert len(kept_K) == 7
            share = (logits_W[token] / 0.8).exp() / (logits_W[kept_K.long()] / 0.8).exp().sum()
            total = total - batch.advantages_N[first].double() * share.log() / len(batch.advantages_N)
            first += 1
    (expected,) = torch.autograd.grad(total, model.network.head_WD)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)  # float32 sums in another order


def test_the_entropy_is_that_of_what_is_drawn_from(model, prompts):
    settings = GrpoSettings(num_samples=4, max_tokens=8, top_k=2)
    batch = policy_batch(sampled(model, prompts, settings), settings, pad_id=2)
    with torch.no_grad():
        assert 0 < policy_outputs(model.network, batch, sampling=batch.sampling).entropy <= math.log(2)
        assert policy_outputs(model.network, batch).entropy > math.log(2)


def test_after_an_update_a_token_keeps_its_ratio_though_the_likeliest_are_others(config, prompts):
    model = Model(Network(config, seed=1), config, None)
    settings = GrpoSettings(num_prompts=4, num_samples=4, max_tokens=9, top_k=3, num_updates=2, beta=0.01)
    optimizer = HybridOptimizer(model.network.named_parameters(), OptimizerSettings(lr=3e-2, matrix_lr=None))
    rollouts, reference = sampled(model, prompts, settings), Network(config, seed=1)
    figures = []
    for part in range(2):
        batch = policy_batch(mini_batch(rollouts, settings, part), settings, pad_id=2, is_fresh=part == 0)
        figures.append(
            update(
                model.network,
                optimizer,
                batch,
                lambda network, batch: policy_loss(network, batch, settings=settings, reference=reference),
                1.0,
            ).figures
        )
    assert (figures[0]["ratio_max"], figures[0]["kl"]) == (0.0, 0.0)
    assert all(math.isfinite(value) for one in figures for value in one.values())
    assert figures[1]["update_kl"] > 0
    assert figures[1]["kl"] > 0


def test_replies_that_do_not_tell_what_they_were_drawn_from_are_refused(model, prompts):
    settings = GrpoSettings(num_samples=4, max_tokens=5, top_p=0.9)
    rollouts = sampled(model, prompts, GrpoSettings(num_samples=4, max_tokens=5))
    with pytest.raises(ValueError, match=r"16 of 16 replies do not tell what they were drawn from.*policy=True"):
        policy_batch(rollouts, settings, pad_id=2)


def test_the_whole_softmax_at_temperature_1_is_told_of_by_nothing_more(model, prompts):
    rollouts = sampled(model, prompts, GrpoSettings(num_samples=4, max_tokens=5))
    assert all(one.kept_ids is None for one in rollouts)

"""The second law where it matters: a step of reinforcement learning is on policy to the last bit, and says so.

However the engine read and guessed, and whatever type its weights have, `policy_loss` finds every ratio to be 1 and
every set of experts to be the same.
"""

from dataclasses import replace

import pytest
import torch

from gorae.checkpoint import Model
from gorae.engine import Engine, SamplingParams
from gorae.model import Network
from gorae.posttrain import GrpoSettings, Rollout, policy_batch, policy_loss, sample_rollouts

SETTINGS = GrpoSettings(num_samples=4)
PARAMS = SamplingParams(max_tokens=20, ignore_eos=True, routings=True)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def learner(request, config) -> Model:
    """A network with a next-token module, whose matrices are of either type."""
    network = Network(replace(config, num_mtp_modules=1), seed=3)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.named_buffers():
        assert name.endswith("bias_E")
        tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    if request.param is torch.bfloat16:
        network.requires_grad_(False)
        for parameter in network.parameters():
            parameter.data = parameter.data.bfloat16() if parameter.ndim > 1 else parameter.data
    return Model(network, network.config, None)


@pytest.fixture
def asked(prompts) -> list[list[int]]:
    """Prompts of 1 to 73 tokens; two begin as a third does, which is a page and more."""
    return [*prompts[:3], prompts[3], prompts[3] + prompts[0], prompts[3] + [7] * 9]


def reward(number, output) -> float:
    return float(sum(output.token_ids))  # all unequal, so that no reply is left out


def figures_of(network: Network, rollouts: list[Rollout]) -> dict[str, float]:
    batch = policy_batch(rollouts, SETTINGS, pad_id=2)
    assert len({len(one.prompt_ids) for one in rollouts}) > 3, "so that there is padding"
    return policy_loss(network, batch, settings=SETTINGS).figures


@pytest.mark.parametrize(
    "options",
    [
        *({}, {"prefix_cache": False}, {"prefill_tokens": 32}, {"max_batch": 5}, {"cache_tokens": 320}),
        *({"speculation": "ngram"}, {"speculation": "mtp"}, {"speculation": "auto"}),
    ],
    ids=str,
)
def test_every_ratio_is_1_and_no_token_is_routed_otherwise(learner, asked, options):
    engine = Engine(learner, **options)
    params = replace(PARAMS, max_tokens=75) if "cache_tokens" in options else PARAMS  # long enough to be preempted
    rollouts = sample_rollouts(engine, asked, reward, num_samples=4, params=params, seed=1)
    figures = figures_of(learner.network, rollouts)
    assert (figures["ratio_max"], figures["routing_flips"], figures["mismatch_kl"]) == (0.0, 0.0, 0.0)
    assert "speculation" not in options or engine.stats.drafted > 0 or options["speculation"] == "auto"
    assert "cache_tokens" not in options or engine.stats.preemptions > 0


def test_behind_prefixes_that_others_left_every_ratio_is_1(learner, asked):
    """Without routings, for which a known prefix would be read again."""
    engine, plain = Engine(learner), replace(PARAMS, routings=False)
    engine.generate(asked, plain)
    rollouts = sample_rollouts(engine, asked, reward, num_samples=4, params=plain, seed=1)
    assert engine.stats.cached_tokens >= 3 * 4 * 32
    figures = figures_of(learner.network, rollouts)
    assert figures["ratio_max"] == 0.0
    assert "routing_flips" not in figures
    assert "dead_experts" not in figures


@torch.no_grad()
def test_one_weight_in_its_fourth_digit_shows_in_the_ratio_and_one_bias_in_the_flips(model, asked):
    rollouts = sample_rollouts(Engine(model), asked, reward, num_samples=4, params=PARAMS, seed=1)
    router = model.network.blocks[2].feed_forward
    router.bias_E[5].add_(10.0)  # in one of two layers every token goes to expert 5 now
    figures = figures_of(model.network, rollouts)
    gone = [5 not in way for one in rollouts for way in one.routings.experts_LTA[1].tolist()]
    assert sum(gone) > 0
    assert figures["routing_flips"] == pytest.approx(sum(gone) / (2 * len(gone)))
    assert figures["ratio_max"] > 1e-4
    router.bias_E[5].sub_(10.0)
    model.network.blocks[0].feed_forward.down_DF[3, 4].mul_(1.001)
    assert figures_of(model.network, rollouts)["ratio_max"] > 0


def test_an_order_of_the_same_experts_is_no_flip_and_padding_counts_nowhere(model, asked):
    rollouts = sample_rollouts(Engine(model), asked, reward, num_samples=4, params=PARAMS, seed=1)
    turned = [
        replace(one, routings=one.routings._replace(experts_LTA=one.routings.experts_LTA.flip(-1))) for one in rollouts
    ]
    assert figures_of(model.network, turned)["routing_flips"] == 0.0
    batch = policy_batch(rollouts[:4], SETTINGS, pad_id=2)
    loads = torch.zeros(2, 8)
    for one in rollouts[:4]:
        for layer, experts_TA in enumerate(one.routings.experts_LTA):
            loads[layer] += experts_TA.flatten().bincount(minlength=8)
    loss = policy_loss(model.network, batch, settings=SETTINGS)
    assert [len(routing.experts_NA) for routing in loss.routings] == [4 * (5 + 20 - 1)] * 2
    assert loss.figures["dead_experts"] == (loads == 0).float().mean().item()


@torch.no_grad()
def test_experts_that_no_token_goes_to_are_counted_over_layers(model, asked):
    """Of four groups of two experts two can be chosen: 2 and 4 drag down the others of theirs."""
    model.network.blocks[1].feed_forward.bias_E[:3].sub_(10.0)
    model.network.blocks[2].feed_forward.bias_E[4].sub_(10.0)
    rollouts = sample_rollouts(Engine(model), asked, reward, num_samples=4, params=PARAMS, seed=1)
    assert figures_of(model.network, rollouts)["dead_experts"] == 6 / 16

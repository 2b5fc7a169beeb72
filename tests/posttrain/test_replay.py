"""Where only the router differs, replaying the sampler's ways gives its log-probabilities and its gradient back."""

from dataclasses import replace

import pytest
import torch

from gorae.checkpoint import Model
from gorae.engine import Engine, SamplingParams
from gorae.model import Network
from gorae.posttrain import replay_of
from gorae.posttrain.sft import training_row
from gorae.train import pad_batch, token_log_probs

ROUTED = (1, 2)  # layers


@pytest.fixture(params=["sigmoid", "softmax", "not normalised"])
def trainer(request, config) -> Network:
    """A network whose first layer is dense, with each way of weighing experts."""
    options = {"softmax": {"router": "softmax"}, "not normalised": {"normalize_routing": False}}.get(request.param, {})
    return Network(replace(config, routing_scale=2.5, **options), seed=1)


@pytest.fixture
def sampler(trainer) -> Network:
    """The same but for its routers, which are drawn anew."""
    sampler = Network(trainer.config)
    sampler.load_state_dict(trainer.state_dict())
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for layer in ROUTED:
            sampler.blocks[layer].feed_forward.router_ED.normal_(std=0.2, generator=generator)
    return sampler


@pytest.fixture
def outputs(sampler, prompts):
    params = SamplingParams(max_tokens=7, ignore_eos=True, routings=True, seed=3)
    return Engine(Model(sampler.eval(), sampler.config, None)).generate(prompts[:3], params)


def log_probs(network: Network, outputs, **replay):
    batch = pad_batch([training_row(one.prompt_token_ids, one.token_ids) for one in outputs], pad_id=0)
    features = network(batch.token_ids_BT[:, :-1], **replay)
    chosen = batch.weights_BT[:, 1:] > 0
    return token_log_probs(network, features.hidden_BTD[chosen], batch.token_ids_BT[:, 1:][chosen])


def replayed(network: Network, outputs):
    num_tokens = max(len(one.prompt_token_ids + one.token_ids) for one in outputs) - 1
    return log_probs(network, outputs, replay=replay_of([one.routings for one in outputs], num_tokens))


def gradients(network: Network, log_probs_N) -> dict[str, torch.Tensor]:
    advantages_N = torch.randn(len(log_probs_N), generator=torch.Generator().manual_seed(0))
    network.zero_grad()
    (advantages_N * log_probs_N).sum().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}


def test_replay_restores_the_samplers_log_probs_to_the_last_bit(trainer, outputs):
    reported = torch.tensor([one for output in outputs for one in output.logprobs])
    assert (log_probs(trainer, outputs) - reported).abs().max() > 1e-3
    assert torch.equal(replayed(trainer, outputs), reported)


def test_replay_restores_the_gradient_of_every_weight_but_those_below_a_router(trainer, sampler, outputs):
    """What lies below a router has a gradient through its scores too, which are the trainer's own."""
    wanted = gradients(sampler, log_probs(sampler, outputs))
    without, found = (gradients(trainer, run(trainer, outputs)) for run in (log_probs, replayed))
    last = f"blocks.{ROUTED[-1]}.feed_forward."
    above = [name for name in wanted if name.startswith(last) and "router" not in name] + ["norm_D", "head_WD"]
    assert len(above) == 8
    for name in above:
        # padding goes other ways, so an expert's sum over tokens, though equal, is rounded otherwise
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-6, msg=name)
    assert (without["head_WD"] - wanted["head_WD"]).norm() > 0.01 * wanted["head_WD"].norm()


def test_the_router_still_learns_under_replay_by_its_own_scores_of_the_replayed_experts(trainer, outputs):
    found = gradients(trainer, replayed(trainer, outputs))
    for layer in ROUTED:
        assert found[f"blocks.{layer}.feed_forward.router_ED"].norm() > 0


def test_replaying_a_networks_own_ways_changes_no_bit_of_log_probs_and_gradients(sampler, outputs):
    """The gradient through the weights is the router's own, so here nothing at all differs."""
    own, again = (gradients(sampler, run(sampler, outputs)) for run in (log_probs, replayed))
    assert torch.equal(log_probs(sampler, outputs), replayed(sampler, outputs))
    for name, gradient in own.items():
        # the weights are divided and scaled by other operations, so their gradient is rounded otherwise
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_ways_that_are_longer_than_the_pass_are_refused(outputs):
    with pytest.raises(ValueError, match="ways of 39 tokens do not fit a pass of 10"):
        replay_of([one.routings for one in outputs], 10)

"""Fewer numbers that learn: their gradients, that the network has them at once, and that all others stay."""

from functools import partial

import pytest
import torch
from torch.func import functional_call

from gorae.checkpoint import Model, load_state
from gorae.engine import Engine, SamplingParams
from gorae.engine.weights import WeightsWatch
from gorae.model import Network
from gorae.train import (
    AdapterSettings,
    ExpertAdapter,
    HybridOptimizer,
    LowRankAdapter,
    OptimizerSettings,
    Schedule,
    Trainer,
    pad_batch,
    policy_outputs,
    supervised_loss,
)

SETTINGS = OptimizerSettings(lr=1e-2, matrix_lr=None, weight_decay=0.1)
BY_BOTH = OptimizerSettings(lr=1e-2, matrix_lr=1e-2)
CHOSEN = [[1, 6], [4]]  # of the second layer and the third; the first is dense
ADAPTERS = {
    "lora": partial(LowRankAdapter, rank=3, alpha=6.0, seed=5),
    "experts": partial(ExpertAdapter, chosen=CHOSEN),
}

either = pytest.mark.parametrize("kind", ADAPTERS)


class KilledError(Exception):
    """Stands for whatever ends a process."""


def copied(network: Network) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def gradient_of(parameter: torch.Tensor) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


def learn(network, adapter, make_batch, *, steps: int = 3, settings: OptimizerSettings = SETTINGS) -> None:
    optimizer = HybridOptimizer(adapter.parameters.items(), settings)
    for step in range(steps):
        supervised_loss(network, make_batch(step)).total.backward()
        optimizer.step(1.0)
        adapter.write()


def loss_of(network, weights, batch) -> torch.Tensor:
    """The loss of a network with other weights, through which autograd goes on."""
    hidden = functional_call(network, weights, (batch.token_ids_BT[:, :-1],)).hidden_BTD
    wanted = batch.weights_BT[:, 1:]
    logits = hidden @ weights["head_WD"].T
    log_probs = logits.log_softmax(-1).gather(-1, batch.token_ids_BT[:, 1:, None])[..., 0]
    return -(log_probs * wanted).sum() / wanted.sum()


def test_gradients_of_both_factors_are_those_of_a_network_with_the_product_written_out(config, make_batch):
    network = Network(config, seed=1)
    adapter = LowRankAdapter(network, rank=3, alpha=6.0)
    learn(network, adapter, make_batch, steps=2)  # so that neither factor is zero
    base = Network(config, seed=1).state_dict()
    factors = {name: one.detach().clone().requires_grad_() for name, one in adapter.parameters.items()}
    written = {
        name: base[name] + 2.0 * factors[f"{name}.B"] @ factors[f"{name}.A"] if name in adapter.bases else base[name]
        for name in base
    }
    loss_of(network, written, make_batch(7)).backward()
    supervised_loss(network, make_batch(7)).total.backward()
    assert len(factors) == len(adapter.parameters) > 20
    for name, factor in factors.items():
        # float32 sums of at most a few hundred products, in another order
        torch.testing.assert_close(gradient_of(adapter.parameters[name]), gradient_of(factor), rtol=1e-4, atol=2e-6)
    assert all(weight.grad is None for weight in network.parameters()), "whole gradients are let go of at once"


def test_gradients_of_several_passes_add_up(config, make_batch):
    network = Network(config, seed=1)
    adapter = LowRankAdapter(network, rank=2)
    learn(network, adapter, make_batch, steps=1)

    def gradients(*steps: int) -> list[torch.Tensor]:
        for step in steps:
            supervised_loss(network, make_batch(step)).total.backward()
        found = [gradient_of(parameter) for parameter in adapter.parameters.values()]
        for parameter in adapter.parameters.values():
            parameter.grad = None
        return found

    for both, one, other in zip(gradients(1, 2), gradients(1), gradients(2), strict=True):
        assert torch.equal(both, one + other)


def test_a_new_adapter_leaves_every_bit_of_the_network(network, make_batch):
    before = copied(network)
    adapter = LowRankAdapter(network, rank=2)
    adapter.write()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    learn(network, adapter, make_batch)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16])
def test_the_network_has_the_base_plus_the_scaled_product_rounded_once_however_many_steps_there_were(
    network, make_batch, held
):
    network.to(held)
    network.embedding_WD.data = network.embedding_WD.data.float()
    before = copied(network)
    adapter = LowRankAdapter(network, rank=4, alpha=2.0)
    learn(network, adapter, make_batch, steps=5)
    for name in adapter.bases:
        a, b = adapter.pair(name)
        product = before[name].double() + 0.5 * b.double() @ a.double()
        # float32 is within a few of its units of the exact sum; bfloat16 rounds that once, to eight bits
        bound = 1e-6 + (product.abs() / 2**8 if held == torch.bfloat16 else 0)
        assert ((network.get_parameter(name).double() - product).abs() <= bound).all()
        assert network.get_parameter(name).dtype == held


def test_weights_that_bfloat16_holds_exactly_are_kept_in_it(network):
    network.embedding_WD.data.zero_()
    with torch.no_grad():
        network.blocks[0].attention.output_DHV.copy_(network.blocks[0].attention.output_DHV.bfloat16())
    adapter = LowRankAdapter(network, rank=2)
    narrow = {name for name, base in adapter.bases.items() if base.dtype == torch.bfloat16}
    assert narrow == {"blocks.0.attention.output_DHV"}
    assert torch.equal(adapter.bases[narrow.pop()].float(), network.blocks[0].attention.output_DHV)


def test_the_optimizer_holds_two_numbers_for_each_of_the_adapters_and_none_for_others(network):
    adapter = LowRankAdapter(network, rank=2)
    shapes = [network.get_parameter(name).shape for name in adapter.bases]
    numbers = sum(2 * (shape[0] if len(shape) == 3 else 1) * sum(shape[-2:]) for shape in shapes)
    optimizer = HybridOptimizer(adapter.parameters.items(), SETTINGS)
    assert sum(parameter.numel() for parameter in adapter.parameters.values()) == numbers
    assert sum(tensor.numel() for tensor in optimizer.state.values()) == 2 * numbers


def test_embedding_head_routers_norms_and_prediction_modules_learn_nothing(network, make_batch):
    before = copied(network)
    adapter = LowRankAdapter(network, rank=2)
    learn(network, adapter, make_batch)
    moved = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == set(adapter.bases)
    assert not any(name.startswith("mtp.") or name.endswith(("_WD", "router_ED", "norm_D")) for name in moved)


def test_experts_learn_alone_and_no_bit_of_another_moves_though_weights_decay(network, make_batch):
    before = copied(network)
    adapter = ExpertAdapter(network, CHOSEN)
    learn(network, adapter, make_batch)
    for name, tensor in network.state_dict().items():
        layer = {"blocks.1": 0, "blocks.2": 1}.get(name[:8])
        learnt = CHOSEN[layer] if layer is not None and name.endswith(("_EFD", "_EDF")) else []
        if learnt:
            moved = (tensor != before[name]).flatten(1).any(1).nonzero().flatten().tolist()
            assert moved == learnt
        else:
            assert torch.equal(tensor, before[name]), name


def test_experts_that_learn_get_the_gradient_they_have_among_all(config, make_batch):
    whole, network = Network(config, seed=1), Network(config, seed=1)
    adapter = ExpertAdapter(network, CHOSEN)
    for one in (whole, network):
        supervised_loss(one, make_batch(0)).total.backward()
    assert len(adapter.parameters) == 9
    for name, parameter in adapter.parameters.items():
        stack, _, expert = name.rpartition(".")
        assert torch.equal(gradient_of(parameter), gradient_of(whole.get_parameter(stack))[int(expert)])


def test_the_optimizer_has_state_for_the_experts_that_learn_only(network, config):
    optimizer = HybridOptimizer(ExpertAdapter(network, CHOSEN).parameters.items(), SETTINGS)
    numbers = 3 * 3 * config.expert_dim * config.model_dim
    assert sum(tensor.numel() for tensor in optimizer.state.values()) == 2 * numbers


@either
def test_whoever_watches_the_weights_sees_a_step(network, make_batch, kind):
    adapter = ADAPTERS[kind](network)
    watch = WeightsWatch(network)
    assert not watch.has_changed()
    learn(network, adapter, make_batch, steps=1)
    assert watch.has_changed()


@either
@pytest.mark.parametrize("settings", [SETTINGS, BY_BOTH])
def test_an_adapter_learns(network, make_batch, kind, settings):
    adapter, batch = ADAPTERS[kind](network), make_batch(0)
    before = supervised_loss(network, batch).total.item()
    learn(network, adapter, lambda step: batch, steps=8, settings=settings)
    assert supervised_loss(network, batch).total.item() < before - 0.05


@either
def test_a_run_killed_anywhere_ends_with_the_bits_of_one_that_was_not(config, make_batch, meter, tmp_path, kind):
    def train(folder, until: int | None = None) -> Network:
        network = Network(config, seed=3)
        adapter = ADAPTERS[kind](network)

        def batch_unless_killed(step: int):
            if step == until:
                raise KilledError
            return make_batch(step)

        optimizer = HybridOptimizer(adapter.parameters.items(), BY_BOTH)
        trainer = Trainer(
            "test", network, optimizer, Schedule(6), folder, save_every=2, router_bias_rate=0.01, adapter=adapter
        )
        trainer.run(batch_unless_killed, loss, meter=meter, count=lambda batch: None)
        return network

    def loss(network, batch):
        """With the decisions of all routers, whose biases then move."""
        features = network(batch.token_ids_BT)
        further = network.predict_further(features, batch.token_ids_BT)
        routings = [*features.routings, *(routing for one in further for routing in one.routings)]
        return supervised_loss(network, batch)._replace(routings=routings)

    expected = copied(train(tmp_path / "whole"))
    for until in (1, 3, 5):
        with pytest.raises(KilledError):
            train(tmp_path / "killed", until)
    found = train(tmp_path / "killed").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    state, _ = load_state(tmp_path / "whole/state.safetensors")
    saved = {name.removeprefix("network/") for name in state if name.startswith("network/")}
    learnt = set(ADAPTERS[kind](Network(config)).parameters)
    assert saved == learnt | {name for name in expected if name.endswith("bias_E")}, "no weight that did not learn"


@either
def test_a_state_of_something_else_is_refused(network, kind):
    with pytest.raises(ValueError, match=r"does not fit what is to learn here: .* is on one side only"):
        ADAPTERS[kind](network).load_state_dict(network.state_dict())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"rank": -1}, "rank=-1 must not be negative"),
        ({"alpha": 0.0}, "alpha=0.0 must be positive"),
        ({"experts": 1.5}, "experts=1.5 is a share"),
        ({"rank": 2, "experts": 0.2}, "set one of them to 0"),
        ({"score": "loud"}, "score='loud' must be one of gate, token"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, told):
    with pytest.raises(ValueError, match=told):
        AdapterSettings(**given)


@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16])
def test_engine_and_trainer_agree_to_the_bit_after_every_step(network, config, make_batch, held):

    for _, weight in list(network.named_parameters()):
        if weight.ndim > 1:
            weight.data = weight.data.to(held)
    adapter = LowRankAdapter(network, rank=3)
    for _ in range(2):
        learn(network, adapter, make_batch, steps=1)
        (output,) = Engine(Model(network, config, None)).generate(
            [[3, 4, 5]], SamplingParams(max_tokens=9, seed=1, ignore_eos=True)
        )
        row = output.prompt_token_ids + output.token_ids
        outputs = policy_outputs(network, pad_batch([(row, [0.0] * 3 + [1.0] * 9)], 0))
        assert torch.equal(outputs.log_probs_N, torch.tensor(output.logprobs))

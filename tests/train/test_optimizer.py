"""The optimizer against torch's AdamW and against Muon written out in float64."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gorae.model import Network
from gorae.train import HybridOptimizer, OptimizerSettings
from gorae.train.optimizer import NEWTON_SCHULZ, halves, joined, orthogonalize

SETTINGS = OptimizerSettings(lr=3e-3, matrix_lr=2e-2, weight_decay=0.1, max_grad_norm=1e9)
SCALES = [0.2, 1.0, 1.0, 0.6, 0.1]


def polynomial(values: Tensor, num_iterations: int = 5) -> Tensor:
    """What Newton-Schulz does to each singular value on its own."""
    a, b, c = NEWTON_SCHULZ
    for _ in range(num_iterations):
        values = a * values + b * values**3 + c * values**5
    return values


def orthogonalize_by_svd(matrix: Tensor) -> Tensor:
    """In float64: singular vectors kept, singular values through the polynomial."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return left * polynomial(values / (values.square().sum().sqrt() + 1e-7)) @ right


def drawn(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (24, 24), (10, 64), (64, 10)])
def test_orthogonalize_is_the_polynomial_of_the_singular_values(shape):
    matrices = drawn((3, *shape))[0]
    expected = torch.stack([orthogonalize_by_svd(matrix) for matrix in matrices])
    # five rounds of float32 products; the polynomial's slope at 0 is 3.4445^5 = 485
    torch.testing.assert_close(orthogonalize(matrices).double(), expected, rtol=0, atol=1e-4)


def test_orthogonalize_brings_singular_values_near_1():
    """Five rounds take all from 0.01 to 1 into 0.68 to 1.14: the coefficients trade exactness for a steep start."""
    reach = polynomial(torch.linspace(0.01, 1, 10_000, dtype=torch.float64))
    assert reach.min() > 0.68
    assert reach.max() < 1.14
    matrices = drawn((4, 16, 40))[0]
    assert torch.linalg.svdvals(matrices).div(torch.linalg.matrix_norm(matrices)[:, None]).min() > 0.01
    values = torch.linalg.svdvals(orthogonalize(matrices))
    assert values.min() > 0.68
    assert values.max() < 1.14


def test_orthogonalize_does_not_depend_on_scale_or_neighbours():
    one, other = drawn((2, 12, 20))[0]
    together = orthogonalize(torch.stack((one, other, 1000 * one)))
    torch.testing.assert_close(together[0], orthogonalize(one[None])[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(together[2], together[0], rtol=0, atol=1e-5)
    assert orthogonalize(torch.zeros(1, 4, 5)).eq(0).all(), "no gradient, no direction"


def step_with(optimizer: HybridOptimizer, gradients: list[list[Tensor]]) -> None:
    for scale, step_gradients in zip(SCALES, gradients, strict=True):
        for parameter, gradient in zip(optimizer.parameters.values(), step_gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step(scale)


def test_the_adam_part_is_torchs_adamw():
    shapes = [(30, 8), (8,), (5, 8)]
    names = ["embedding_WD", "norm_D", "blocks.1.feed_forward.router_ED"]
    ours = {name: nn.Parameter(tensor) for name, tensor in zip(names, drawn(*shapes), strict=True)}
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours.values()]
    gradients = [drawn(*shapes, seed=seed) for seed in range(1, 6)]
    step_with(HybridOptimizer(ours.items(), SETTINGS), gradients)
    judge = torch.optim.AdamW(theirs, betas=SETTINGS.betas, eps=1e-8, weight_decay=SETTINGS.weight_decay)
    for scale, step_gradients in zip(SCALES, gradients, strict=True):
        judge.param_groups[0]["lr"] = SETTINGS.lr * scale
        for parameter, gradient in zip(theirs, step_gradients, strict=True):
            parameter.grad = gradient
        judge.step()
    for parameter, expected in zip(ours.values(), theirs, strict=True):
        torch.testing.assert_close(parameter, expected, rtol=0, atol=1e-6)


def test_the_muon_part_is_its_definition_in_float64_expert_by_expert():
    shapes = [(12, 20), (20, 12), (3, 12, 20)]
    ours = {f"matrix_{number}": nn.Parameter(tensor) for number, tensor in enumerate(drawn(*shapes))}
    gradients = [drawn(*shapes, seed=seed) for seed in range(1, 6)]
    expected = [parameter.detach().double() for parameter in ours.values()]
    momenta = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
    step_with(HybridOptimizer(ours.items(), SETTINGS), gradients)
    for scale, step_gradients in zip(SCALES, gradients, strict=True):
        lr = 2e-2 * scale
        for number, gradient in enumerate(step_gradients):
            momenta[number] = 0.95 * momenta[number] + gradient
            nesterov = (gradient + 0.95 * momenta[number]).reshape(-1, *shapes[number][-2:])
            direction = torch.stack([orthogonalize_by_svd(matrix) for matrix in nesterov]).view(shapes[number])
            expected[number] = expected[number] * (1 - lr * 0.1) - lr * 0.2 * 20**0.5 * direction
    for parameter, weights in zip(ours.values(), expected, strict=True):
        torch.testing.assert_close(parameter.double(), weights, rtol=0, atol=1e-5)  # as close as orthogonalize is


def test_muon_takes_the_matrices_of_blocks_and_modules_but_no_embedding_head_router_or_norm(network):
    optimizer = HybridOptimizer(network.named_parameters(), SETTINGS)
    muon = {name.removeprefix("momentum/") for name in optimizer.state if name.startswith("momentum/")}
    adam = set(optimizer.adam_names)
    assert muon | adam == {name for name, _ in network.named_parameters()}
    assert not muon & adam
    assert {name.rpartition(".")[2] for name in muon} == {
        *("query_down_QD", "query_up_HKQ", "latent_down_CRD", "latent_up_HKVC", "output_DHV"),
        *("gate_FD", "up_FD", "down_DF", "gate_EFD", "up_EFD", "down_EDF", "join_DDD"),
    }
    assert {name.rpartition(".")[2] for name in adam} == {
        *("embedding_WD", "head_WD", "router_ED", "norm_D", "attention_norm_D", "feed_forward_norm_D"),
        *("query_norm_Q", "latent_norm_C", "embedding_norm_D", "hidden_norm_D", "head_norm_D"),
    }


def test_without_a_matrix_rate_adamw_takes_everything(network):
    optimizer = HybridOptimizer(network.named_parameters(), replace(SETTINGS, matrix_lr=None))
    assert optimizer.adam_names == [name for name, _ in network.named_parameters()]
    assert not optimizer.matrices


def test_gradients_are_clipped_together_by_their_norm():
    """AdamW forgets a constant factor, so the clipped gradient is read from its first moment."""
    parameters = {"norm_D": nn.Parameter(torch.zeros(4)), "head_WD": nn.Parameter(torch.zeros(2, 3))}
    optimizer = HybridOptimizer(parameters.items(), replace(SETTINGS, max_grad_norm=0.5, betas=(0.0, 0.95)))
    parameters["norm_D"].grad, parameters["head_WD"].grad = torch.full((4,), 1.5), torch.full((2, 3), -2.0)
    assert optimizer.step(1.0) == pytest.approx((4 * 1.5**2 + 6 * 4.0) ** 0.5)
    clipped = torch.cat([optimizer.state[f"first/{name}"].flatten() for name in parameters])
    assert clipped.norm().item() == pytest.approx(0.5, rel=1e-5)
    assert clipped[0] / clipped[-1] == pytest.approx(-0.75)


def test_a_step_clears_gradients_and_leaves_what_has_none():
    learnt, frozen = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3), requires_grad=False)
    idle = nn.Parameter(torch.ones(3, 3))
    optimizer = HybridOptimizer([("learnt", learnt), ("frozen", frozen), ("idle", idle)], SETTINGS)
    learnt.grad = torch.eye(3)
    optimizer.step(1.0)
    assert learnt.grad is None
    assert not torch.equal(learnt, torch.ones(3, 3))
    assert torch.equal(frozen, torch.ones(3, 3))
    assert torch.equal(idle, torch.ones(3, 3))


def test_a_saved_state_goes_on_to_the_same_bits(network, config, make_batch):
    def gradients_of(step: int, network: Network) -> None:
        network.logits(network(make_batch(step).token_ids_BT).hidden_BTD).square().mean().backward()

    first = HybridOptimizer(network.named_parameters(), SETTINGS)
    gradients_of(0, network)
    first.step(1.0)
    twin = Network(config)
    twin.load_state_dict(network.state_dict())
    second = HybridOptimizer(twin.named_parameters(), SETTINGS)
    second.load_state_dict({name: tensor.clone() for name, tensor in first.state_dict().items()})
    for one, optimizer in ((network, first), (twin, second)):
        gradients_of(1, one)
        optimizer.step(0.5)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True))


def test_a_state_of_another_network_is_refused_by_name(network):
    optimizer = HybridOptimizer(network.named_parameters(), SETTINGS)
    state = optimizer.state_dict()
    del state["first/norm_D"]
    with pytest.raises(ValueError, match="does not fit this network: first/norm_D is on one side only"):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize("betas", [(0.9,), (0.9, 0.95, 0.99), (0.9, 1.0), (-0.1, 0.95)])
def test_betas_are_two_numbers_below_1(betas):
    with pytest.raises(ValueError, match=r"must be two numbers from 0 to below 1, as in 0\.9,0\.95"):
        OptimizerSettings(betas=betas)


def test_a_number_is_its_rounding_to_bfloat16_and_a_rest():
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31 - 1, (100_000,), generator=generator, dtype=torch.int32)
    wide = bits.view(torch.float32)
    ties = torch.tensor([0.0, -0.0, 1.0, 1.00390625, -1.00390625])
    wide = torch.cat((wide[wide.isfinite() & (wide.abs() < 3e38)], ties))
    upper, lower = halves(wide)
    assert torch.equal(joined(upper, lower).view(torch.int32), wide.view(torch.int32))
    off, least = ((wide.double() - one.double()).abs() for one in (upper, wide.bfloat16()))
    assert torch.equal(off, least)


@pytest.mark.parametrize("matrix_lr", [None, 3e-6])
def test_bfloat16_loses_no_update_however_small(matrix_lr):
    """The same gradients move a float32 parameter to the same number, of which bfloat16 shows the rounding."""
    settings = replace(SETTINGS, lr=1e-5, matrix_lr=matrix_lr)
    start = drawn((6, 10))[0].bfloat16()
    narrow, wide = nn.Parameter(start.clone()), nn.Parameter(start.float())
    optimizers = [HybridOptimizer([("blocks.0.matrix", one)], settings) for one in (narrow, wide)]
    for step in range(50):
        gradient = drawn((6, 10), seed=step % 3)[0].bfloat16()
        for parameter, optimizer in zip((narrow, wide), optimizers, strict=True):
            parameter.grad = gradient.to(parameter.dtype)
            if step == 25:
                optimizer.load_state_dict({name: one.clone() for name, one in optimizer.state_dict().items()})
            optimizer.step(1.0)
    assert torch.equal(joined(narrow.detach(), optimizers[0].state["remainder/blocks.0.matrix"]), wide.detach())
    assert torch.equal(narrow.detach(), halves(wide.detach())[0])
    assert (wide.detach() != start.float()).all()
    assert (narrow.detach() == start).any()  # what bfloat16 alone would have lost for good

"""A weight held in a narrower type stands for the float32 matrix of the same values, to the bit."""

import pytest
import torch
from torch import Tensor

from gorae.kernels import BLOCK, BlockScaled, HeldExperts, Weight, bands, expert_mlp, pack, weights

SHAPES = [(1, 1), (7, 130), (128, 128), (300, 77), (513, 40)]


def block_scaled(normal, num_rows: int, num_columns: int) -> BlockScaled:
    scales = normal(-(-num_rows // BLOCK), -(-num_columns // BLOCK)).abs() + 0.1
    return BlockScaled(normal(num_rows, num_columns).to(torch.float8_e4m3fn), scales)


def element_by_element(weight: BlockScaled) -> Tensor:
    """The definition, in float64."""
    rows, columns = torch.meshgrid(*(torch.arange(size) // BLOCK for size in weight.shape), indexing="ij")
    return weight.values.double() * weight.scales.double()[rows, columns]


@pytest.fixture(params=[None, 3 * BLOCK * 40], ids=["one band", "several bands"])
def band_elements(request, monkeypatch) -> None:
    if request.param:
        monkeypatch.setattr(weights, "_BAND_ELEMENTS", request.param)


@pytest.mark.usefixtures("band_elements")
@pytest.mark.parametrize("shape", SHAPES)
def test_fp8_is_value_times_the_scale_of_its_block(normal, shape):
    weight = block_scaled(normal, *shape)
    assert torch.equal(torch.cat([*bands(weight)]), element_by_element(weight).float())


def test_every_code_of_e4m3_is_widened_as_pytorch_widens_it():
    numbers = torch.tensor([code for code in range(256) if code & 0x7F != 0x7F], dtype=torch.uint8)
    for codes in (numbers, torch.arange(256, dtype=torch.uint8)):  # without the two codes of NaN, and with them
        values = codes.view(torch.float8_e4m3fn)[None]
        (widened,) = bands(BlockScaled(values, torch.ones(1, 2)))
        torch.testing.assert_close(widened, values.float(), rtol=0, atol=0, equal_nan=True)
        assert torch.equal(widened.signbit(), values.float().signbit())


@pytest.mark.parametrize("num_rows", [1, 9])
@pytest.mark.parametrize("scale", [1.0, 0.3, 1e-40, 2.0**120])
def test_a_product_reads_every_code_of_e4m3_as_it_is_widened(doors, num_rows, scale):
    """One number an output, so that its bits can be seen: denormal ones, NaN, and scales at both ends of float32."""
    values = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)[:, None]
    weight = BlockScaled(values, torch.full((2, 1), scale))
    y = doors.linear(torch.ones(num_rows, 1), weight)
    expected = (values.float() * scale)[:, 0].expand(num_rows, -1)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)


def test_a_product_in_several_bands_is_that_in_one(doors, normal, monkeypatch):
    weight, x = block_scaled(normal, 513, 40), normal(5, 40)
    whole = doors.linear(x, weight)
    monkeypatch.setattr(weights, "_BAND_ELEMENTS", BLOCK * 40)
    assert torch.equal(doors.linear(x, weight), whole)


def mixed_types(normal, num_rows: int, num_columns: int) -> Weight:
    """Now one type, now another."""
    drawn = normal(num_rows, num_columns)
    return drawn.half() if drawn[0, 0] > 0 else drawn


HELD = {
    "float32": lambda normal, *shape: normal(*shape),
    "bfloat16": lambda normal, *shape: normal(*shape).bfloat16(),
    "float16": lambda normal, *shape: normal(*shape).half(),
    "fp8": block_scaled,
    "panels": lambda normal, *shape: pack(normal(*shape), 16),
    "mixed": mixed_types,
    "turned": lambda normal, rows, columns: normal(columns, rows).T,
}


@pytest.mark.parametrize("hold", HELD.values(), ids=HELD)
@pytest.mark.parametrize("shape", [*SHAPES, (257, 700)])
@pytest.mark.parametrize("num_rows", [1, 5, 9])
def test_a_product_has_the_bits_of_one_with_float32_weights(doors, normal, hold, shape, num_rows):
    weight, x = hold(normal, *shape), normal(num_rows, shape[1])
    assert torch.equal(doors.linear(x, weight), doors.linear(x, torch.cat([*bands(weight)])))


@pytest.mark.parametrize("hold", [HELD["fp8"], HELD["panels"]], ids=["fp8", "panels"])
def test_a_weight_that_does_not_learn_passes_the_gradient_on(doors, normal, agree, hold):
    weight = hold(normal, 130, 40)
    wide = torch.cat([*bands(weight)]).double()
    agree(lambda x: doors.linear(x, weight), lambda x: x @ wide.T, normal(5, 40))


@pytest.mark.parametrize("hold", [HELD["fp8"], HELD["panels"], HELD["bfloat16"]], ids=["fp8", "panels", "bfloat16"])
def test_experts_held_one_by_one_pass_the_gradient_on(doors, normal, agree, hold):
    experts = torch.tensor([[0, 2], [2, 1], [1, 0]])
    held = [HeldExperts(hold(normal, *shape) for _ in range(3)) for shape in ((24, 20), (24, 20), (20, 24))]
    gate, up, down = (torch.stack([torch.cat([*bands(one)]) for one in matrices]).double() for matrices in held)

    def plain(x, shares):
        y = torch.zeros_like(x)
        for slot in range(2):
            rows = x[:, None] @ gate[experts[:, slot]].mT, x[:, None] @ up[experts[:, slot]].mT
            hidden = torch.nn.functional.silu(rows[0]) * rows[1]
            y = y + (hidden @ down[experts[:, slot]].mT)[:, 0] * shares[:, slot : slot + 1]
        return y

    agree(lambda x, shares: doors.expert_mlp(x, experts, shares, *held), plain, normal(3, 20), normal(3, 2).abs())


@pytest.mark.parametrize("hold", HELD.values(), ids=HELD)
def test_experts_held_one_by_one_have_the_bits_of_experts_stacked_in_float32(doors, normal, hold):
    experts = torch.tensor([[0, 2], [2, 3], [3, 0]])
    shapes = ((130, 20), (130, 20), (20, 130))
    narrow = [HeldExperts(hold(normal, *shape) for _ in range(4)) for shape in shapes]
    stacked = [torch.stack([torch.cat([*bands(one)]) for one in matrices]) for matrices in narrow]
    x, shares = normal(3, 20), normal(3, 2).abs()
    assert torch.equal(doors.expert_mlp(x, experts, shares, *narrow), doors.expert_mlp(x, experts, shares, *stacked))


def test_an_expert_that_no_token_chose_is_not_touched(normal):
    matrices = HeldExperts([normal(8, 6), None, normal(8, 6)])
    downs = HeldExperts([normal(6, 8), None, normal(6, 8)])
    y = expert_mlp(normal(2, 6), torch.tensor([[0], [2]]), normal(2, 1), matrices, matrices, downs)
    assert y.shape == (2, 6)

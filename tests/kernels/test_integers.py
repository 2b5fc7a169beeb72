"""What the compiled kernels of panels promise beyond the doors: every bit, whatever the processor and the shape."""

import ctypes
import ctypes.util

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gorae import kernels
from gorae.kernels import HeldExperts, Panels, backend, pack

SETS = list(backend.COMPILED)

pytestmark = pytest.mark.skipif(not SETS, reason="the extension is not built")
few_examples = settings(max_examples=40, deadline=None, derandomize=True)
sizes = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 127, 128, 200, 300]))
bits = st.sampled_from([4, 8])


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_every_set(compute) -> list[Tensor]:
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for name in SETS:
            patch.setattr(backend, "CHOSEN", name)
            found.append(compute())
    return found


@few_examples
@given(st.integers(0, 30), sizes, sizes, bits, st.integers(0, 1000))
def test_every_instruction_set_gives_a_product_the_same_bits(num_rows, num_inputs, num_outputs, num_bits, seed):
    weight = pack(drawn(seed, num_outputs, num_inputs), num_bits)
    x = drawn(seed + 1, num_rows, num_inputs) * 10.0 ** torch.arange(-20, num_rows - 20)[:, None]
    first, *others = with_every_set(lambda: kernels.linear(x, weight))
    assert all(torch.equal(first, other) for other in others)
    if num_rows:
        (alone,) = with_every_set(lambda: kernels.linear(x[-1:], weight))[:1]
        assert torch.equal(alone[0], first[-1])


@few_examples
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 3), sizes, sizes, bits, bits, st.integers(0, 1000))
def test_every_instruction_set_gives_experts_the_same_bits(
    num_tokens, num_experts, num_active, width, inner, num_bits, down_bits, seed
):
    experts = torch.randint(num_experts, (num_tokens, num_active), generator=torch.Generator().manual_seed(seed))
    x, shares = drawn(seed, num_tokens, width), drawn(seed + 1, num_tokens, num_active)
    shapes = ((num_bits, inner, width), (num_bits, inner, width), (down_bits, width, inner))
    held = [HeldExperts(pack(drawn(seed, *shape), each) for _ in range(num_experts)) for each, *shape in shapes]
    first, *others = with_every_set(lambda: kernels.expert_mlp(x, experts, shares, *held))
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("num_bits", [4, 8])
@pytest.mark.parametrize("num_inputs", [31, 64, 200])
def test_a_product_is_a_chain_of_fused_multiply_adds_of_whole_groups(num_inputs, num_bits):
    fused = ctypes.CDLL(ctypes.util.find_library("m")).fmaf
    fused.restype, fused.argtypes = ctypes.c_float, [ctypes.c_float] * 3
    x, weight = drawn(0, 2, num_inputs), pack(drawn(1, 17, num_inputs), num_bits)
    scales, numbers = parts_of(weight)
    for y in with_every_set(lambda: kernels.linear(x, weight)):
        for row, output in ((0, 0), (1, 3), (0, 16)):
            chain = 0.0
            for group, inputs in enumerate(x[row].split(32)):
                scale = inputs.abs().max() / 127
                rounded = (inputs * (1 / scale)).round().long()
                product = (rounded * numbers[output, group, : len(rounded)]).sum()
                chain = fused((scales[output, group] * scale).item(), product.item(), chain)
            assert y[row, output] == torch.tensor(chain)


def parts_of(weight: Panels) -> tuple[Tensor, Tensor]:
    """The scales [O, groups] and integers [O, groups, 32] of panels, from the layout in panels.py."""
    num_bytes = 64 * weight.bits  # of a group's numbers
    blocks = weight.packed.unflatten(1, (-1, 64 + 2 * num_bytes))
    scales = blocks[..., :64].contiguous().view(torch.float16).unflatten(-1, (2, 16)).flatten(1, 2)
    quads = blocks[..., 64:].unflatten(-1, (2, -1, 16, 4)).flatten(1, 2)
    if weight.bits == 4:
        quads = torch.cat((quads % 16, quads // 16), dim=2).long() - 8
    else:
        quads = quads.contiguous().view(torch.int8).long()
    return scales.float().transpose(1, 2).flatten(0, 1), quads.permute(0, 3, 1, 2, 4).flatten(3).flatten(0, 1)


@pytest.mark.parametrize("num_bits", [4, 8])
def test_the_largest_numbers_do_not_overflow(num_bits):
    x = torch.full((1, 64), 3.0)
    for sign in (-1.0, 1.0):
        weight = pack(torch.full((16, 64), sign), num_bits)
        for y in with_every_set(lambda weight=weight: kernels.linear(x, weight)):
            torch.testing.assert_close(y, torch.full((1, 16), sign * 3 * 64), rtol=0.001, atol=0)


def test_many_rows_are_taken_in_parts_with_the_same_bits():
    x, weight = drawn(0, 2100, 40), pack(drawn(1, 20, 40), 8)
    for y in with_every_set(lambda: kernels.linear(x, weight)):
        assert torch.equal(with_every_set(lambda: kernels.linear(x[2040:2060], weight))[0], y[2040:2060])
    experts, shares = drawn(1, 4200, 3).argsort(dim=-1)[:, :2], drawn(2, 4200, 2)
    held = [HeldExperts(pack(drawn(seed, *shape), 4) for seed in range(3)) for shape in ((9, 40), (9, 40), (40, 9))]
    x, part = drawn(0, 4200, 40), slice(4090, 4100)
    (alone, *_) = with_every_set(lambda: kernels.expert_mlp(x[part], experts[part], shares[part], *held))
    for y in with_every_set(lambda: kernels.expert_mlp(x, experts, shares, *held)):
        assert torch.equal(alone, y[part])


def test_an_expert_that_is_none_is_refused():
    held = [HeldExperts([pack(drawn(0, *shape), 4)]) for shape in ((9, 40), (9, 40), (40, 9))]
    with pytest.raises(IndexError, match="an expert that is none"):
        with_every_set(lambda: kernels.expert_mlp(drawn(3, 1, 40), torch.tensor([[1]]), torch.ones(1, 1), *held))

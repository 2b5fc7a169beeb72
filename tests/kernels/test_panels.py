"""The layout of panels: what is packed comes back, number by number where the docstring says it lies."""

import pytest
import torch

from gorae.kernels import pack, panel_bytes, unpack

SHAPES = [(1, 1), (16, 64), (17, 65), (40, 96), (5, 31), (128, 256)]


def drawn(shape: tuple[int, int]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("shape", SHAPES)
def test_16_bits_give_back_bfloat16_exactly(shape):
    weight = drawn(shape)
    assert torch.equal(unpack(pack(weight, 16)), weight.bfloat16().float())


@pytest.mark.parametrize(("bits", "steps"), [(8, 127), (4, 8)])
@pytest.mark.parametrize("shape", SHAPES)
def test_quantised_numbers_come_back_within_a_step_of_their_group(shape, bits, steps):
    weight = drawn(shape)
    error = (unpack(pack(weight, bits)) - weight).abs()
    columns = torch.nn.functional.pad(weight, (0, -shape[1] % 32)).unflatten(1, (-1, 32))
    largest = columns.abs().amax(-1, keepdim=True).expand(columns.shape).flatten(1)[:, : shape[1]]
    assert (error <= largest / steps * 1.25 + 1e-6).all()


@pytest.mark.parametrize("bits", [8, 16])  # 4 bits tries scales, so that it may round again
def test_packing_what_was_unpacked_changes_no_byte(bits):
    once = pack(drawn((40, 96)), bits)
    assert torch.equal(pack(unpack(once), bits).packed, once.packed)


def test_numbers_lie_where_the_layout_says():
    weight = torch.zeros(16, 64)
    weight[3, 37] = 1.0  # group 1, its input 5: quad 1, place 1
    block = pack(weight, 8).packed[0]
    assert block[64 + 512 + (1 * 16 + 3) * 4 + 1] == 127
    assert block[: 2 * 2 * 16].view(torch.float16)[16 + 3] == torch.tensor(1 / 127).half()
    block = pack(weight, 4).packed[0]
    assert block[64 + 256 + (1 * 16 + 3) * 4 + 1] == 0x80  # -8 with a scale of -1/8, and 8 in the other half
    halves = pack(weight, 16).packed[0].view(torch.bfloat16)
    assert halves[37 * 16 + 2 * 3] == 1.0


def test_bytes_of_a_panel_are_what_it_takes():
    for bits in (4, 8, 16):
        assert pack(drawn((16, 128)), bits).packed.shape == (1, panel_bytes(128, bits))
    assert panel_bytes(64, 4) == 64 + 16 * 64 // 2


def test_what_is_no_finite_number_is_refused():
    weight = drawn((20, 40))
    weight[18, 3] = torch.nan
    with pytest.raises(ValueError, match="no finite number"):
        pack(weight, 8)
    with pytest.raises(ValueError, match="float16 scales"):
        pack(drawn((16, 64)) * 1e10, 4)

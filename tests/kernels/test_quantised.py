"""Products with panels of 4 and 8 bits: a row rounded to 8 bits by itself, and the numbers the panels stand for."""

import pytest
import torch

from gorae.kernels import HeldExperts, bands, pack, swiglu, unpack, weights

SHAPES = [(1, 1), (16, 64), (17, 65), (40, 96), (5, 31), (330, 200), (48, 333)]  # (outputs, inputs)
FEW_BITS = [4, 8]


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Group by group, in float64 but for the scale."""
    parts = []
    for group in x.split(32, dim=-1):
        scale = group.abs().amax(-1, keepdim=True) / 127
        parts.append((group.double() / scale).round() * scale)
    return torch.cat(parts, dim=-1).nan_to_num()  # a group of zeros has a scale of zero


@pytest.mark.parametrize("bits", [*FEW_BITS, 16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_rows", [0, 1, 9])
def test_a_product_is_that_of_the_numbers_the_panels_stand_for(doors, normal, num_rows, shape, bits):
    weight, x = pack(normal(*shape), bits), normal(num_rows, shape[1])
    wide = unpack(weight).double()
    expected = (rounded(x) if bits < 16 else x.double()) @ wide.T
    # some hundred products of unit normals, summed in float32
    torch.testing.assert_close(doors.linear(x, weight).double(), expected, rtol=0, atol=1e-5 * shape[1] ** 0.5)
    if bits == 16:
        assert torch.equal(doors.linear(x, weight), doors.linear(x, wide.float()))


@pytest.mark.parametrize("bits", FEW_BITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_does_not_depend_on_the_rows_beside_it(doors, normal, shape, bits):
    weight, x = pack(normal(*shape), bits), normal(70, shape[1])
    y = doors.linear(x, weight)
    for num_rows in (*range(1, 18), 65):
        assert torch.equal(doors.linear(x[:num_rows], weight), y[:num_rows])
        assert torch.equal(doors.linear(x[-num_rows:], weight), y[-num_rows:])


@pytest.mark.parametrize("bits", FEW_BITS)
@pytest.mark.parametrize("num_rows", [1, 7, 100])
def test_one_and_two_threads_give_the_same_bits(doors, normal, at_threads, num_rows, bits):
    weight, x = pack(normal(331, 512), bits), normal(num_rows, 512)
    one, two = (at_threads(number, lambda: doors.linear(x, weight)) for number in (1, 2))
    assert torch.equal(one, two)


@pytest.mark.parametrize("bits", FEW_BITS)
def test_rows_are_read_where_they_lie(doors, normal, bits):
    weight, wide = pack(normal(40, 96), bits), normal(3, 7, 300)
    y = doors.linear(wide[..., 100:196].contiguous(), weight)
    assert y.shape == (3, 7, 40)
    assert torch.equal(doors.linear(wide[..., 100:196], weight), y)
    assert torch.equal(doors.linear(wide.transpose(0, 1)[..., 100:196], weight), y.transpose(0, 1))


@pytest.mark.parametrize("bits", FEW_BITS)
def test_zeros_and_numbers_too_small_to_scale_give_zeros(doors, normal, bits):
    weight, x = pack(normal(20, 64), bits), torch.zeros(3, 64)
    x[1] = 1e-45  # the smallest there is: its 127th part is none
    assert doors.linear(x, weight).eq(0).all()


@pytest.mark.parametrize("bits", FEW_BITS)
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_finite_number_spoils_its_own_row_alone(doors, normal, bits, wrong):
    weight, x = pack(normal(40, 96), bits), normal(9, 96)
    y = doors.linear(x, weight)
    x[4, 40] = wrong
    spoilt = doors.linear(x, weight)
    assert spoilt[4].isnan().all()
    assert torch.equal(spoilt[:4], y[:4])
    assert torch.equal(spoilt[5:], y[5:])


@pytest.mark.parametrize("bits", [*FEW_BITS, 16])
@pytest.mark.parametrize("shape", SHAPES)
def test_bands_of_panels_are_the_rows_they_stand_for(normal, monkeypatch, shape, bits):
    weight = pack(normal(*shape), bits)
    assert torch.equal(torch.cat([*bands(weight)]), unpack(weight))
    monkeypatch.setattr(weights, "_BAND_ELEMENTS", 128 * shape[1])
    assert torch.equal(torch.cat([*bands(weight)]), unpack(weight))


@pytest.mark.parametrize("bits", [*FEW_BITS, 16, None])
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(16, 64), (48, 40), (5, 33)])
def test_every_head_has_a_product_of_its_own(doors, normal, num_outputs, num_inputs, bits):
    drawn, x = normal(3 * num_outputs, num_inputs), normal(2, 5, 3, num_inputs)
    weight = drawn if bits is None else pack(drawn, bits)
    y = doors.head_linear(x, weight)
    assert y.shape == (2, 5, 3, num_outputs)
    wide = drawn if bits is None else unpack(weight)
    seen = rounded(x) if bits in FEW_BITS else x.double()
    expected = torch.einsum("bthi,hoi->btho", seen, wide.unflatten(0, (3, -1)).double())
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-4)
    # a head of queries lies apart from the next by more than its width
    turned = torch.cat((x, x), dim=-1).transpose(1, 2).contiguous().transpose(1, 2)[..., :num_inputs]
    assert torch.equal(doors.head_linear(turned, weight), y)
    assert torch.equal(doors.head_linear(x[:1, 2:3], weight), y[:1, 2:3])


SIZES = [(1, 1, 8, 3), (4, 2, 37, 5), (12, 3, 64, 96), (16, 4, 64, 40)]  # experts, active, model width, expert width


def drawn_experts(doors, normal, num_tokens, size, bits):
    num_experts, num_active, width, inner = size
    routing = doors.route(normal(num_tokens, num_experts), torch.zeros(num_experts), num_active=num_active)
    held = [
        HeldExperts(pack(0.3 * normal(*shape), each) for _ in range(num_experts))
        for shape, each in zip(((inner, width), (inner, width), (width, inner)), bits, strict=True)
    ]
    return normal(num_tokens, width), routing.experts_NA, routing.weights_NA, *held


@pytest.mark.parametrize("bits", [(4, 4, 4), (8, 8, 8), (4, 4, 8), (4, 8, 4), (16, 16, 16), (16, 8, 4)])
@pytest.mark.parametrize("size", SIZES)
def test_experts_give_a_row_the_bits_of_the_products_alone(doors, normal, size, bits):
    x, experts, shares, gate, up, down = drawn_experts(doors, normal, 20, size, bits)
    y = doors.expert_mlp(x, experts, shares, gate, up, down)
    for token in (0, 13, 19):
        row, expected = x[token : token + 1], None
        for share, expert in zip(shares[token], experts[token].tolist(), strict=True):
            hidden = swiglu(doors.linear(row, gate[expert]), doors.linear(row, up[expert]))
            weighted = doors.linear(hidden, down[expert]) * share
            expected = weighted if expected is None else expected + weighted
        assert torch.equal(y[token : token + 1], expected)


@pytest.mark.parametrize("bits", [(4, 4, 4), (8, 8, 8), (4, 4, 8)])
@pytest.mark.parametrize("size", SIZES)
def test_a_token_does_not_depend_on_the_tokens_beside_it_nor_on_threads(doors, normal, at_threads, size, bits):
    x, experts, shares, *held = drawn_experts(doors, normal, 130, size, bits)
    y = at_threads(2, lambda: doors.expert_mlp(x, experts, shares, *held))
    assert torch.equal(at_threads(1, lambda: doors.expert_mlp(x, experts, shares, *held)), y)
    for token in range(0, 130, 7):
        part = slice(token, token + 1)
        assert torch.equal(doors.expert_mlp(x[part], experts[part], shares[part], *held)[0], y[token])
    assert torch.equal(doors.expert_mlp(x[5:12], experts[5:12], shares[5:12], *held), y[5:12])
    assert doors.expert_mlp(x[:0], experts[:0], shares[:0], *held).shape == (0, size[2])


@pytest.mark.parametrize("bits", [None, (4, 4, 4), (8, 8, 8), (4, 4, 8), (4, 8, 4), (16, 16, 8)])
@pytest.mark.parametrize("num_rows", [0, 1, 30])
def test_a_gated_mlp_has_the_bits_of_its_products(doors, normal, num_rows, bits):
    drawn, x = [normal(40, 65), normal(40, 65), normal(65, 40)], normal(2, num_rows, 65)
    weights = drawn if bits is None else [pack(one, each) for one, each in zip(drawn, bits, strict=True)]
    gate, up, down = weights
    y = doors.gated_mlp(x, *weights)
    assert y.shape == x.shape
    assert torch.equal(y, doors.linear(swiglu(doors.linear(x, gate), doors.linear(x, up)), down))
    assert torch.equal(doors.gated_mlp(x[:, :1], *weights), y[:, :1])

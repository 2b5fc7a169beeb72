"""What the compiled kernels promise beyond the doors: one order of summation, whatever the processor and the shape."""

import ctypes
import ctypes.util

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gorae import kernels
from gorae.kernels import backend
from gorae.kernels.routing.reference import route_reference

SETS = list(backend.COMPILED)

pytestmark = pytest.mark.skipif(not SETS, reason="the extension is not built")
few_examples = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.fixture(scope="module", params=SETS, autouse=True)
def instruction_set(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "CHOSEN", request.param)
        yield request.param


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


sizes = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 127, 255, 256, 257, 300, 513]))
shapes = st.tuples(st.integers(0, 70), sizes, sizes, st.integers(0, 1000))  # rows, inputs, outputs, seed


@few_examples
@given(shapes)
def test_a_product_of_any_shape_is_right_and_every_row_of_it_is_that_of_the_row_alone(shape):
    num_rows, num_inputs, num_outputs, seed = shape
    x, weight = drawn(seed, num_rows, num_inputs), drawn(seed + 1, num_outputs, num_inputs)
    y = kernels.linear(x, weight)
    # 256 roundings of 2^-24 of a sum that is about the root of its length: 3e-7 of that in the mean, seldom 2e-6
    torch.testing.assert_close(y.double(), x.double() @ weight.double().T, rtol=0, atol=5e-6 * num_inputs**0.5)
    for row in range(num_rows):
        assert torch.equal(kernels.linear(x[row : row + 1], weight)[0], y[row])
    for num_few in range(min(8, num_rows)):
        assert torch.equal(kernels.linear(x[:num_few], weight), y[:num_few])


@few_examples
@given(shapes, st.integers(0, 9))
def test_an_output_does_not_depend_on_the_outputs_beside_it(shape, first):
    num_rows, num_inputs, num_outputs, seed = shape
    x, weight = drawn(seed, num_rows, num_inputs), drawn(seed + 1, first + num_outputs, num_inputs)
    assert torch.equal(kernels.linear(x, weight[first:]), kernels.linear(x, weight)[:, first:])


def in_fp8(weight):
    values = (10 * weight).to(torch.float8_e4m3fn)
    return kernels.BlockScaled(values, drawn(7, *(-(-size // kernels.BLOCK) for size in weight.shape)).abs())


NARROW = {"bfloat16": torch.Tensor.bfloat16, "panels": lambda weight: kernels.pack(weight, 16), "fp8": in_fp8}
hold_narrow = pytest.mark.parametrize("hold", NARROW.values(), ids=NARROW)


@hold_narrow
@few_examples
@given(shapes)
def test_a_narrow_weight_gives_the_bits_of_its_numbers_in_float32(hold, shape):
    num_rows, num_inputs, num_outputs, seed = shape
    x, weight = drawn(seed, num_rows, num_inputs), hold(drawn(seed + 1, num_outputs, num_inputs))
    wide = torch.cat([*kernels.bands(weight)])
    assert torch.equal(kernels.linear(x, weight), kernels.linear(x, wide))
    for num_few in range(1, min(8, num_rows)):
        assert torch.equal(kernels.linear(x[:num_few], weight), kernels.linear(x[:num_few], wide))


@hold_narrow
def test_a_narrow_weight_that_does_not_begin_at_a_line_gives_the_same_bits(hold):
    """As it lies in a mapped file: at any even byte."""
    x, weight = drawn(0, 3, 300), hold(drawn(1, 300, 300))
    parts = [weight] if isinstance(weight, torch.Tensor) else [part for part in weight if hasattr(part, "data_ptr")]
    moved = []
    for part in parts:
        room = torch.empty(part.numel() * part.element_size() + 68, dtype=torch.uint8)
        shift = (-room.data_ptr()) % 64 + 4
        place = room[shift : shift + part.numel() * part.element_size()].view(part.dtype).view(part.shape)
        moved.append(place.copy_(part))
    elsewhere = moved[0] if isinstance(weight, torch.Tensor) else type(weight)(*moved, *weight[len(moved) :])
    assert torch.equal(kernels.linear(x, elsewhere), kernels.linear(x, weight))


@few_examples
@given(shapes)
def test_every_instruction_set_gives_the_same_bits(shape):
    num_rows, num_inputs, num_outputs, seed = shape
    x, weight = drawn(seed, num_rows, num_inputs), drawn(seed + 1, num_outputs, num_inputs)
    y, share, unit = kernels.linear(x, weight), kernels.sigmoid(50 * x), kernels.rms_norm(x, weight[0], 1e-6)
    narrow = [hold(weight) for hold in NARROW.values()]
    products = [kernels.linear(x, held) for held in narrow]
    heads = [held[None, None] for held in (x, weight, weight, torch.zeros(num_rows, num_outputs))]
    mixed = kernels.attention(*heads, 0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "CHOSEN", "portable")
        assert torch.equal(kernels.linear(x, weight), y)
        assert all(torch.equal(kernels.linear(x, held), one) for held, one in zip(narrow, products, strict=True))
        assert torch.equal(kernels.sigmoid(50 * x), share)
        assert torch.equal(kernels.attention(*heads, 0.1), mixed)
        assert torch.equal(kernels.rms_norm(x, weight[0], 1e-6), unit)


@few_examples
@given(st.integers(1, 40), st.integers(0, 300), st.sampled_from([(1, 5), (2, 4), (1, 16)]), st.integers(0, 1000))
def test_every_instruction_set_gives_attention_over_pages_the_same_bits(queries, before, heads, seed):
    key_heads, num_heads = heads
    numbers = drawn(seed, 12, key_heads, 32, 45)
    query, table = drawn(1, 1, queries, num_heads * key_heads, 45), torch.arange(12)[None]
    for pages, end in ((numbers.bfloat16(), 37), (kernels.byte_rows(numbers), kernels.row_bytes(37))):
        mixed = kernels.paged_attention(query, pages, pages[..., :end], table, torch.tensor([before]), 0.3)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backend, "CHOSEN", "portable")
            again = kernels.paged_attention(query, pages, pages[..., :end], table, torch.tensor([before]), 0.3)
        assert torch.equal(again, mixed)


@pytest.mark.parametrize("num_rows", [1, 7])
@pytest.mark.parametrize("num_inputs", [1, 255, 256, 257, 700])
def test_a_product_is_chains_of_256_fused_multiply_adds_added_in_order(num_rows, num_inputs):
    fused = ctypes.CDLL(ctypes.util.find_library("m")).fmaf
    fused.restype, fused.argtypes = ctypes.c_float, [ctypes.c_float] * 3
    x, weight = drawn(0, num_rows, num_inputs), drawn(1, 3, num_inputs)
    y = kernels.linear(x, weight)
    for row in range(num_rows):
        for output in range(3):
            total = torch.zeros(())
            for first in range(0, num_inputs, 256):
                chain = 0.0
                for k in range(first, min(first + 256, num_inputs)):
                    chain = fused(x[row, k].item(), weight[output, k].item(), chain)
                total = total + torch.tensor(chain)
            assert y[row, output] == total


@pytest.mark.parametrize("num_rows", [1, 5, 40])
@pytest.mark.parametrize("hold", [torch.Tensor.float, *NARROW.values()], ids=["float32", *NARROW])
def test_one_and_two_threads_give_the_same_product(num_rows, hold, at_threads):
    x, weight = drawn(0, num_rows, 700), hold(drawn(1, 333, 700))
    one, two = (at_threads(number, lambda: kernels.linear(x, weight)) for number in (1, 2))
    assert torch.equal(one, two)


@few_examples
@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 3), sizes, sizes, st.booleans(), st.integers(0, 1000))
def test_an_expert_gives_a_row_the_bits_of_the_products_alone(tokens, num_experts, active, width, inner, narrow, seed):
    x, dtype = drawn(seed, tokens, width), torch.bfloat16 if narrow else torch.float32
    experts = torch.randint(num_experts, (tokens, active), generator=torch.Generator().manual_seed(seed))
    gate, up, down = (
        drawn(seed + number, num_experts, *shape).to(dtype)
        for number, shape in enumerate([(inner, width), (inner, width), (width, inner)])
    )
    alone = torch.zeros(tokens, active)
    alone[:, -1] = 1.0  # the last slot's output by itself
    y = kernels.expert_mlp(x, experts, alone, gate, up, down)
    for token, number in enumerate(experts[:, -1]):
        parts = [kernels.linear(x[token : token + 1], weight[number]) for weight in (gate, up)]
        assert torch.equal(kernels.linear(kernels.swiglu(*parts), down[number])[0], y[token])


@few_examples
@given(
    st.integers(0, 40),
    st.sampled_from([(8, 1, 1), (12, 4, 2), (64, 8, 4), (37, 1, 1), (16, 16, 3), (24, 8, 8)]),
    st.integers(1, 6),
    st.sampled_from(["sigmoid", "softmax"]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1000),
)
def test_routing_is_that_of_the_definition(tokens, sizes, active, scores, normalize, has_ties, seed):
    """By sigmoid in the very bits; by softmax the sum runs in another order, so shares differ in their last bits."""
    num_experts, groups, active_groups = sizes
    active = min(active, num_experts // groups * active_groups)
    logits = drawn(seed, tokens, num_experts)
    logits = logits.round() if has_ties else logits
    bias = drawn(seed + 1, num_experts).round() if scores == "sigmoid" else None
    ours = kernels.route(
        logits,
        bias,
        num_active=active,
        scores=scores,
        num_groups=groups,
        num_active_groups=active_groups,
        normalize=normalize,
        scale=2.5,
    )
    theirs = route_reference(logits, bias, active, scores, groups, active_groups, normalize, 2.5)
    assert torch.equal(ours.experts_NA, theirs[1])
    if scores == "sigmoid":
        assert torch.equal(ours.scores_NE, theirs[0])
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-6, atol=0)
    for token in range(tokens):
        alone = kernels.route(
            logits[token : token + 1],
            bias,
            num_active=active,
            scores=scores,
            num_groups=groups,
            num_active_groups=active_groups,
            normalize=normalize,
            scale=2.5,
        )
        assert all(torch.equal(one[0], many[token]) for one, many in zip(alone, ours, strict=True))


def test_scores_that_are_no_numbers_choose_experts_that_exist():
    logits = torch.full((2, 12), torch.nan)
    for scores in ("sigmoid", "softmax"):
        routing = kernels.route(logits, None, num_active=3, scores=scores, num_groups=4, num_active_groups=2)
        assert all(len(set(row)) == 3 and set(row) <= set(range(12)) for row in routing.experts_NA.tolist())
        assert routing.weights_NA.isnan().all()


@few_examples
@given(st.integers(0, 70), st.integers(1, 600), st.sampled_from([0.1, 1.0, 30.0]), st.integers(0, 1000))
def test_a_log_softmax_of_any_shape_is_right_and_has_the_same_bits_everywhere(rows, width, spread, seed):
    x = spread * drawn(seed, rows, width)
    y = kernels.log_softmax(x)
    # the result is a float32: half a unit of the largest number in it, and 1e-6 of the sum
    largest = max(1.0, y.abs().max().item()) if y.numel() else 1.0
    torch.testing.assert_close(y.double(), x.double().log_softmax(-1), rtol=0, atol=1e-6 + 2e-7 * largest)
    for row in range(rows):
        assert torch.equal(kernels.log_softmax(x[row]), y[row])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "CHOSEN", "portable")
        assert torch.equal(kernels.log_softmax(x), y)


widths = st.sampled_from([1, 5, 8, 16, 24, 37, 64, 300])


@few_examples
@given(st.integers(1, 70), st.integers(0, 300), widths, widths, st.integers(0, 1000))
def test_a_query_among_others_gets_the_bits_it_gets_alone_with_the_keys_it_sees(queries, before, key, value, seed):
    num_keys = before + queries
    query, keys, values = (
        drawn(seed, 2, 2, queries, key),
        drawn(1, 2, 2, num_keys, key),
        drawn(2, 2, 2, num_keys, value),
    )
    hidden = torch.ones(queries, num_keys, dtype=torch.bool).triu(before + 1)
    mask = torch.zeros(1, 1, queries, num_keys).masked_fill(hidden, float("-inf"))
    y = kernels.attention(query, keys, values, mask, 0.3)
    scores = (query.double() @ keys.double().mT * 0.3 + mask).softmax(-1)
    # a weight errs by its score's 1e-6 or so, and a value by that many of the largest
    torch.testing.assert_close(y.double(), scores @ values.double(), rtol=0, atol=2e-5)
    for place in {0, queries // 2, queries - 1}:
        seen, one = before + place + 1, slice(place, place + 1)
        alone = query[1:, :, one], keys[1:, :, :seen], values[1:, :, :seen]
        assert torch.equal(kernels.attention(*alone, torch.zeros(1, 1, 1, seen), 0.3)[0], y[1, :, one])


@pytest.mark.parametrize("num_queries", [1, 20])
def test_what_lies_behind_the_keys_a_query_sees_counts_for_nothing(num_queries):
    query, key, value = drawn(0, 1, 2, num_queries, 24), drawn(1, 1, 2, 70, 24), drawn(2, 1, 2, 70, 16)
    mask = torch.full((1, 1, num_queries, 70), float("-inf")).triu(31)
    y = kernels.attention(query, key, value, mask, 0.2)
    key[:, :, 30 + num_queries :], value[:, :, 30 + num_queries :] = float("nan"), float("inf")
    assert y.isfinite().all()
    assert torch.equal(kernels.attention(query, key, value, mask, 0.2), y)


@few_examples
@given(shapes)
def test_a_row_is_normalised_alike_in_any_batch_and_wherever_it_lies(shape):
    num_rows, width, _, seed = shape
    wide, weight = drawn(seed, 2, num_rows, width + 5), drawn(seed + 1, width)
    x = wide[:, :, 2:-3]
    y = kernels.rms_norm(x, weight, 1e-6)
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight
    # the mean errs by a few 2^-24, which the root halves; then three roundings
    torch.testing.assert_close(y.double(), exact, rtol=1e-6, atol=0)
    for row in range(num_rows):
        assert torch.equal(kernels.rms_norm(x[1, row], weight, 1e-6), y[1, row])


def test_an_expert_that_is_none_is_refused():
    gate, up, down = drawn(0, 2, 3, 4), drawn(1, 2, 3, 4), drawn(2, 2, 4, 3)
    with pytest.raises(IndexError, match="an expert that is none"):
        kernels.expert_mlp(drawn(3, 1, 4), torch.tensor([[2]]), torch.ones(1, 1), gate, up, down)


def test_sigmoid_is_right_to_the_last_bits_wherever_it_has_a_value():
    x = torch.linspace(-87.0, 100.0, 200_001)
    y, expected = kernels.sigmoid(x).double(), 1 / (1 + torch.exp(-x.double()))
    # exp, sum and quotient round once each, and the series of exp ends at 1e-8: 4 roundings of 2^-24 at most
    assert ((y - expected) / expected).abs().max() < 4 * 2**-24


def test_what_is_no_number_stays_so():
    x = torch.tensor([float("nan"), float("inf"), float("-inf"), 0.0])
    assert torch.equal(kernels.sigmoid(x).nan_to_num(nan=7), torch.tensor([7.0, 1.0, 0.0, 0.5]))


@pytest.mark.parametrize("num_rows", [1, 20])
def test_numbers_too_small_to_be_normal_are_kept_whatever_the_caller_set(num_rows):
    x, weight = torch.full((num_rows, 3), 1e-20), torch.full((9, 3), 1e-20)
    expected = kernels.linear(x, weight)
    assert expected.gt(0).all()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor can not flush denormal numbers to zero")
    try:
        assert torch.equal(kernels.linear(x, weight).view(torch.int32), expected.view(torch.int32))
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("num_rows", [3, 30])
def test_a_row_that_is_no_number_spoils_no_other(num_rows):
    x, weight = drawn(0, num_rows, 300), drawn(1, 50, 300)
    y = kernels.linear(x, weight)
    x[1, 7] = float("nan")
    spoilt = kernels.linear(x, weight)
    assert spoilt[1].isnan().all()
    assert torch.equal(spoilt[2:], y[2:])


def test_weights_in_rows_far_apart_are_read_where_they_lie():
    wide = drawn(0, 40, 500)
    for num_rows in (2, 20):
        x = drawn(1, num_rows, 900)[:, 100:400]
        y = kernels.linear(x.contiguous(), wide[:, 50:350].contiguous())
        assert torch.equal(kernels.linear(x, wide[:, 50:350]), y)


def test_a_product_without_inputs_is_zero():
    assert kernels.linear(torch.zeros(3, 0), torch.zeros(5, 0)).eq(0).all()
    assert kernels.linear(torch.zeros(0, 4), torch.zeros(5, 4)).shape == (0, 5)
    assert kernels.linear(torch.zeros(3, 4), torch.zeros(0, 4)).shape == (3, 0)

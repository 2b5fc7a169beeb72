"""What is recorded and repeated gives what computing it again would give, or is not repeated."""

import threading

import pytest
import torch
import torch.nn.functional as F

from gorae.kernels import Arena, Recording, linear, rms_norm, rotary_angles, rotate
from gorae.kernels.backend import CHOSEN, COMPILED

pytestmark = pytest.mark.skipif(CHOSEN not in COMPILED, reason="only compiled kernels are recorded")


def arena(num_bytes=1 << 20):
    return Arena(num_bytes)


def recorded(function, *tensors, memory=None):
    with torch.inference_mode(), Recording(memory or arena()) as recording:
        result = function(*tensors)
    return recording, result


def a_bit_of_a_model(x_BTD, weight_DD, norm_D, bias_D, table_WD, ids_BT):
    """What lies between kernels: sums, copies, joins, views, constants."""
    x_BTD = x_BTD + F.embedding(ids_BT, table_WD).float()
    angles = rotary_angles(ids_BT, 1.0 / torch.arange(1, 5), 1.5)[:, :, None]
    mixed_BTD = linear(rms_norm(x_BTD, norm_D, 1e-6), weight_DD) + bias_D
    heads_BHTK = mixed_BTD.unflatten(-1, (2, -1)).transpose(1, 2)
    plain, turned = heads_BHTK.split((8, 8), dim=-1)
    joined_BHTK = torch.cat((plain, rotate(turned, angles)), dim=-1)
    return x_BTD + joined_BHTK.transpose(1, 2).flatten(2).to(torch.bfloat16).to(torch.float32)


def drawn(seed, *, tokens=3, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    x, weight, norm, bias = (torch.randn(shape, generator=draw) for shape in ((2, tokens, 32), (32, 32), (32,), (32,)))
    table = torch.randn(11, 32, generator=draw).to(dtype)
    return x, weight, norm, bias, table, torch.randint(11, (2, tokens), generator=draw)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 3])
@torch.inference_mode()
def test_repeated_with_other_numbers_it_gives_the_bits_of_computing_anew(dtype, tokens):
    held = drawn(1, tokens=tokens, dtype=dtype)
    recording, result = recorded(a_bit_of_a_model, *held)
    assert recording.is_whole
    assert torch.equal(result, a_bit_of_a_model(*held))
    for seed in (2, 3):
        for old, new in zip(held, drawn(seed, tokens=tokens, dtype=dtype), strict=True):
            old.copy_(new)
        recording.repeat()
        assert torch.equal(result, a_bit_of_a_model(*held))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_what_is_rounded_and_put_into_pages_is_what_pytorch_puts_there(dtype):
    pages = torch.zeros(4, 2, 5, 7, dtype=dtype)
    values, which, where = (
        torch.randn(3, 2, 2, 7),
        torch.tensor([[1, 2], [3, 3], [1, 1]]),
        torch.tensor([[4, 0], [1, 2], [0, 1]]),
    )
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e-40, 3.3895e38, 1.00390625, -0.0])

    def put(values):
        pages[which, :, where] = values.transpose(1, 2).to(dtype)
        return values + 0.0

    recording, _ = recorded(put, values)
    values.normal_()[0, 0, 0] = odd
    expected = torch.zeros_like(pages)
    expected[which, :, where] = values.transpose(1, 2).to(dtype)
    pages.zero_()
    assert recording.is_whole
    recording.repeat()
    torch.testing.assert_close(pages, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.cumsum(-1),
        lambda x: x * int(x[0, 0].item()),
        lambda x: x.add_(1.0),
        lambda x: torch.add(x, x, alpha=2),
        lambda x: linear(x, x[x[:, 0] > 0]),
    ],
    ids=[
        "an operation that is not on the list",
        "a number read",
        "a change in place",
        "an option",
        "a shape that follows numbers",
    ],
)
def test_what_can_not_be_repeated_is_computed_and_said_not_to_be_whole(function):
    x = torch.randn(4, 8)
    same = x.clone()
    recording, result = recorded(function, x)
    assert not recording.is_whole
    assert torch.equal(result, function(same))


def test_a_result_for_which_the_arena_is_too_small_is_right_and_not_repeated():
    held = drawn(1)
    recording, result = recorded(a_bit_of_a_model, *held, memory=arena(512))
    assert not recording.is_whole
    assert torch.equal(result, a_bit_of_a_model(*held))


def test_what_other_threads_compute_meanwhile_is_not_recorded():
    x, weight = torch.randn(4, 8), torch.randn(8, 8)
    with torch.inference_mode(), Recording(arena()) as recording:
        other = threading.Thread(target=linear, args=(x, weight))
        other.start()
        other.join()
    assert recording.calls == []


def test_an_error_leaves_nobody_listening():
    x, weight = torch.randn(4, 8), torch.randn(8, 8)
    with pytest.raises(AssertionError, match="9 wide"), Recording(arena()) as recording:
        linear(torch.randn(4, 9), weight)
    linear(x, weight)
    assert recording.calls == []

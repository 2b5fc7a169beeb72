import pytest
import torch

EPS = 1e-6


def plain(x, weight):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight


@pytest.mark.parametrize("shape", [(0, 16), (1, 1), (63, 37), (65, 64), (2, 3, 331)])
def test_values_and_gradients_follow_the_formula(doors, normal, agree, shape):
    agree(lambda x, weight: doors.rms_norm(x, weight, EPS), plain, normal(*shape), normal(shape[-1]))


def test_eps_counts_for_a_row_of_almost_nothing(doors, agree):
    agree(lambda x, weight: doors.rms_norm(x, weight, EPS), plain, torch.full((2, 8), 1e-3), torch.ones(8))


@pytest.mark.parametrize("width", [1, 5, 28, 37, 64, 331])
def test_a_row_does_not_depend_on_the_rows_beside_it_or_on_strides(doors, normal, width):
    wide, weight = normal(65, width + 10), normal(width)
    x = wide[:, :width]  # as a latent is cut from the projection it shares with the rotary key
    y = doors.rms_norm(x.contiguous(), weight, EPS)
    assert torch.equal(doors.rms_norm(x, weight, EPS), y)
    assert torch.equal(doors.rms_norm(x.T.contiguous().T, weight, EPS), y)
    for row in (0, 31, 64):
        assert torch.equal(doors.rms_norm(x[row : row + 1], weight, EPS)[0], y[row])


def test_one_and_two_threads_give_the_same_bits(doors, normal, at_threads):
    x, weight = normal(1001, 100), normal(100)
    one, two = (at_threads(number, lambda: doors.rms_norm(x, weight, EPS)) for number in (1, 2))
    assert torch.equal(one, two)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_weight_in_a_narrower_type_gives_the_bits_of_float32(doors, normal, dtype):
    x, weight = normal(3, 37), normal(37).to(dtype)
    assert torch.equal(doors.rms_norm(x, weight, 1e-6), doors.rms_norm(x, weight.float(), 1e-6))

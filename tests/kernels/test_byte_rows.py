"""Rows of bytes: every kernel gives those of the reference, of a row alone as among others, near the numbers."""

import math

import pytest
import torch

from gorae.kernels import row_bytes, row_width, wide_rows
from gorae.kernels.byte_rows.reference import byte_rows_reference

WIDTHS = [1, 7, 31, 32, 33, 64, 65, 100, 576]
ODD = [math.nan, math.inf, -math.inf, 1e-40, 5e-37, 3e38, -0.0]


def drawn(num_rows, width, seed=0):
    """Numbers with heavy tails, and some that are zero or too small to be normal."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_rows, width, generator=generator) * torch.randn(num_rows, width, generator=generator).exp() ** 3
    x[torch.rand(x.shape, generator=generator) < 0.02] = 1e-41
    x[torch.rand(x.shape, generator=generator) < 0.02] = 0.0
    return x


@pytest.mark.parametrize("num_rows", [0, 1, 3, 33])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_kernel_gives_the_bytes_of_the_reference_even_of_what_is_no_number(doors, width, num_rows):
    x = drawn(num_rows, width)
    for row, odd in zip(x[1:], ODD, strict=False):
        row[width // 2] = odd
    for row, small in zip(x[20:], (1e-45, 1e-40, 1e-38, 1e-37), strict=False):
        row.copy_(small * torch.randn(width))
    found = doors.byte_rows(x)
    assert found.shape == (num_rows, row_bytes(width))
    assert torch.equal(found, byte_rows_reference(x))
    for row in range(num_rows):
        assert torch.equal(doors.byte_rows(x[row : row + 1])[0], found[row])
    assert torch.equal(doors.byte_rows(x.T.contiguous().T), found)


def test_one_and_two_threads_give_the_same_bytes(doors, at_threads):
    x = drawn(300, 100)
    one, two = (at_threads(number, lambda: doors.byte_rows(x)) for number in (1, 2))
    assert torch.equal(one, two)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_number_comes_back_within_half_a_step_of_its_group(doors, width):
    x = drawn(50, width)
    wide = doors.wide_rows(doors.byte_rows(x))
    for part, back in zip(x.split(32, dim=1), wide.split(32, dim=1), strict=True):
        largest = part.abs().amax(1, keepdim=True)
        # half of largest / 127, and the scale itself is rounded by up to 2^-9, which 127 steps add up to 0.25
        assert ((part - back).abs() <= largest / 127 * 0.502 + 1e-38).all()


def test_what_is_no_finite_number_makes_its_group_none_and_no_other(doors):
    for odd in (math.nan, math.inf, -math.inf):
        x = drawn(1, 100)
        x[0, 40] = odd
        assert doors.wide_rows(doors.byte_rows(x)).isnan()[0].nonzero().flatten().tolist() == [*range(32, 64)]


def test_a_row_begins_with_the_row_of_its_first_groups_and_the_sizes_say_so():
    assert all(row_width(row_bytes(width)) == width for width in range(1, 200))
    x = drawn(5, 100)
    for width in (32, 64, 96):
        assert torch.equal(byte_rows_reference(x)[:, : row_bytes(width)], byte_rows_reference(x[:, :width]))
    for width in range(1, 100):
        part = byte_rows_reference(x)[:, : row_bytes(width)]
        assert torch.equal(wide_rows(part), wide_rows(byte_rows_reference(x))[:, :width])

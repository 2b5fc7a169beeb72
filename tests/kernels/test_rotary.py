import pytest
import torch

from gorae.kernels.rotary.reference import rotate_reference

THETA = 10_000.0


def frequencies(rope_dim):
    return THETA ** -(torch.arange(0, rope_dim, 2) / rope_dim)


def turned(x, positions, rope_dim):
    """Adjacent pairs as complex numbers, turned by position · theta^(-2i/R), in float64."""
    angles = positions.double()[:, None] * THETA ** -(torch.arange(0, rope_dim, 2).double() / rope_dim)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


@pytest.mark.parametrize("num_tokens", [0, 1, 63, 65])
@pytest.mark.parametrize("rope_dim", [2, 6, 64])
def test_values_and_gradients_turn_adjacent_pairs(doors, normal, agree, num_tokens, rope_dim):
    positions = torch.arange(num_tokens)
    angles = doors.rotary_angles(positions, frequencies(rope_dim))
    agree(lambda x: doors.rotate(x, angles), lambda x: turned(x, positions, rope_dim), normal(3, num_tokens, rope_dim))


def test_halves_turn_as_adjacent_pairs_do_in_another_order(doors, normal):
    x = normal(3, 9, 10)
    angles = doors.rotary_angles(torch.arange(9), frequencies(10))
    adjacent = x.unflatten(-1, (2, 5)).transpose(-1, -2).flatten(-2)
    turned_halves = doors.rotate(adjacent, angles).unflatten(-1, (5, 2)).transpose(-1, -2).flatten(-2)
    assert torch.equal(doors.rotate(x, angles, interleaved=False), turned_halves)


def test_angles_are_scaled_as_asked(doors):
    plain = doors.rotary_angles(torch.arange(9), frequencies(6))
    assert torch.equal(doors.rotary_angles(torch.arange(9), frequencies(6), 1.5), 1.5 * plain)


def test_angles_and_turns_of_a_position_do_not_depend_on_other_positions(doors, normal, at_threads):
    x, positions = normal(5000, 10), torch.arange(5000)
    angles = doors.rotary_angles(positions, frequencies(10))
    y = at_threads(1, lambda: doors.rotate(x, angles))
    for place in (0, 1, 37, 4999):
        alone = doors.rotary_angles(positions[place : place + 1], frequencies(10))
        assert torch.equal(alone[:, 0], angles[:, place])
        assert torch.equal(doors.rotate(x[place : place + 1], alone)[0], y[place])
    two = at_threads(2, lambda: doors.rotate(x, doors.rotary_angles(positions, frequencies(10))))
    assert torch.equal(two, y)


def test_non_contiguous_rows_have_the_same_bits(doors, normal):
    x = normal(6, 65, 3).permute(2, 1, 0)
    angles = doors.rotary_angles(torch.arange(65), frequencies(6))
    assert torch.equal(doors.rotate(x, angles), doors.rotate(x.contiguous(), angles))


def test_a_product_of_two_turned_rows_depends_on_their_distance_alone(doors, normal):
    query, key = normal(16).double(), normal(16).double()

    def product(at_query, at_key):
        return turned(query[None], torch.tensor([at_query]), 16) @ turned(key[None], torch.tensor([at_key]), 16).T

    torch.testing.assert_close(product(9, 4), product(1005, 1000))


@pytest.mark.parametrize("interleaved", [True, False])
def test_heads_cut_from_a_projection_turn_as_the_definition_says(doors, normal, agree, interleaved):
    """[B, H, T, R] as attention has it: a view whose tokens lie far apart, and angles that all heads share."""
    projected, positions = normal(2, 5, 3 * 14), torch.arange(10).view(2, 5)
    angles = doors.rotary_angles(positions, frequencies(6), 1.2)[:, :, None]

    def heads(x):
        return x.unflatten(-1, (3, 14)).transpose(1, 2)[..., 8:]

    def plain(x):
        return rotate_reference(heads(x), angles.double(), interleaved)

    agree(lambda x: doors.rotate(heads(x), angles, interleaved=interleaved), plain, projected)
    expected = rotate_reference(heads(projected), angles, interleaved)
    assert torch.equal(doors.rotate(heads(projected), angles, interleaved=interleaved), expected)

import pytest
import torch

INFINITY = float("inf")


@pytest.mark.parametrize("shape", [(0, 16), (1, 1), (3, 7), (63, 37), (65, 300), (2, 3, 513)])
def test_values_and_gradients_follow_the_formula(doors, normal, agree, shape):
    agree(doors.log_softmax, lambda x: x.double().log_softmax(-1), 5 * normal(*shape))


def test_a_peaked_row_is_right_where_it_matters(doors):
    row = torch.tensor([[0.0, -40.0, -90.0, -200.0, -INFINITY]])
    y = doors.log_softmax(row)
    torch.testing.assert_close(y, row.double().log_softmax(-1).float(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("width", [1, 5, 8, 37, 256, 257, 1000])
def test_a_row_does_not_depend_on_the_rows_beside_it_or_on_strides(doors, normal, width):
    wide = 4 * normal(65, width + 10)
    x = wide[:, :width]
    y = doors.log_softmax(x.contiguous())
    assert torch.equal(doors.log_softmax(x), y)
    assert torch.equal(doors.log_softmax(x.T.contiguous().T), y)
    for row in (0, 31, 64):
        assert torch.equal(doors.log_softmax(x[row : row + 1])[0], y[row])


def test_one_and_two_threads_give_the_same_bits(doors, normal, at_threads):
    x = normal(101, 1003)
    one, two = (at_threads(number, lambda: doors.log_softmax(x)) for number in (1, 2))
    assert torch.equal(one, two)


@pytest.mark.parametrize("place", [0, 5, 12])
@pytest.mark.parametrize("bad", [float("nan"), INFINITY])
def test_what_is_no_number_can_be_seen_in_its_row_and_in_no_other(doors, normal, place, bad):
    x = normal(3, 13)
    whole = doors.log_softmax(x)
    x[1, place] = bad
    y = doors.log_softmax(x)
    assert y[1].isnan().any()
    assert torch.equal(y[::2], whole[::2])

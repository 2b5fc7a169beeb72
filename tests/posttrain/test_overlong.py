import pytest
from hypothesis import given
from hypothesis import strategies as st

from gorae.posttrain import shape_overlong


@pytest.mark.parametrize(
    ("length", "penalty"),
    [(1, 0), (16383, 0), (16384, 0), (16385, 1 / 4096), (17408, 0.25), (18432, 0.5), (20479, 4095 / 4096), (20480, 1)],
)
@pytest.mark.parametrize("reward", [1.0, -1.0])
def test_the_penalty_is_that_of_the_paper(reward, length, penalty):
    """arXiv 2503.14476, eq. 13: soft over the last 4096 of 20480 tokens."""
    assert shape_overlong(reward, length, max_tokens=20480, soft_tokens=4096) == pytest.approx(reward - penalty)


@given(st.integers(1, 99), st.integers(1, 99), st.integers(1, 99), st.integers(1, 99))
def test_a_longer_reply_never_earns_more_and_loses_at_most_1(max_tokens, soft_tokens, length, more):
    soft_tokens = min(soft_tokens, max_tokens)
    shorter, longer = (
        shape_overlong(0.5, one, max_tokens=max_tokens, soft_tokens=soft_tokens) for one in (length, length + more)
    )
    assert 0.5 >= shorter >= longer >= -0.5


def test_a_reply_without_a_grade_stays_without():
    assert shape_overlong(None, 50, max_tokens=50, soft_tokens=5) is None


@pytest.mark.parametrize("soft_tokens", [0, -1, 51])
def test_a_soft_part_that_does_not_fit_is_refused(soft_tokens):
    with pytest.raises(ValueError, match=f"soft_tokens={soft_tokens} must be at least 1 and at most max_tokens=50"):
        shape_overlong(1.0, 5, max_tokens=50, soft_tokens=soft_tokens)

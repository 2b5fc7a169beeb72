"""Speculation is tried where it is expected to pay, by what was measured; the clock here counts tokens, not time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gorae.config import PRESETS, ModelConfig, count_parameters
from gorae.engine.gain import MARGIN, UNKNOWN, Acceptance, Offer, PassCosts, best_length, rounded

DENSE = ModelConfig.dense(
    vocab_size=60, model_dim=16, num_layers=2, num_heads=4, head_dim=6, num_key_heads=2, dense_dim=20
)


def offers(*shares: tuple[int, float]) -> list[Offer]:
    """Guesses of requests by number and share."""
    found = []
    for number, (num_tokens, share) in enumerate(shares):
        acceptance = Acceptance()
        acceptance.of_all = share
        found.append(Offer(num_tokens, acceptance, number))
    return found


def test_where_tokens_are_free_all_are_tried_and_where_they_cost_in_full_none():
    asked = offers((8, 0.7), (8, 0.2))
    assert best_length(asked, 8, lambda num_tokens: 1.0) == 8
    assert best_length(asked, 8, float) == 0
    assert best_length(asked, 0, lambda num_tokens: 1.0) == 0
    assert best_length(offers((0, 0.9)), 8, lambda num_tokens: 1.0) == 0


@given(
    st.lists(st.tuples(st.integers(0, 8), st.floats(0, 1)), min_size=1, max_size=5),
    st.integers(0, 8),
    st.floats(0.01, 1),
)
def test_the_length_chosen_promises_most_and_more_than_none_by_a_margin(asked, longest, slope):
    def cost(num_tokens: int) -> float:
        return 1 + slope * num_tokens

    def rate(length: int) -> float:
        expected = sum(1 + sum(share**n for n in range(1, min(length, most) + 1)) for most, share in asked)
        return expected / cost(len(asked) * (1 + length))

    chosen = best_length(offers(*asked), longest, cost)
    assert 0 <= chosen <= longest
    if chosen:
        assert rate(chosen) >= MARGIN * rate(0)
        assert rate(chosen) == pytest.approx(max(rate(length) for length in range(1, longest + 1)))


def test_a_share_follows_what_happens_and_a_rest_brings_it_back():
    acceptance = Acceptance()
    assert acceptance.share(1) == UNKNOWN
    for _ in range(50):
        acceptance.note(1, 0, was_wrong=True)
    assert acceptance.share(1) < 0.05
    assert acceptance.share(1) < acceptance.share(2) < UNKNOWN, "others begin with what is known of all"
    for _ in range(100):
        acceptance.note(2, 8, was_wrong=False)
    assert acceptance.share(2) > 0.95
    for _ in range(200):
        acceptance.rest(1)
    assert acceptance.share(1) == pytest.approx(UNKNOWN, abs=0.1)
    acceptance.forget(1)
    assert acceptance.share(1) == acceptance.of_all


def test_guesses_after_a_wrong_one_say_nothing():
    one, other = Acceptance(), Acceptance()
    one.note(1, 2, was_wrong=True)
    for is_right in (True, True, False):
        other.note(1, int(is_right), was_wrong=not is_right)
    assert one.share(1) == other.share(1)


def test_more_tokens_of_a_network_with_experts_read_more_weights():
    v3, dense = PassCosts(PRESETS["deepseek-v3"]), PassCosts(DENSE)
    whole = count_parameters(PRESETS["deepseek-v3"])
    for costs in (v3, dense):
        assert costs.of(1) == pytest.approx(1.0)
    reads = [costs.of(8) - 0.1 * 7 for costs in (v3, dense)]
    assert reads[0] > 4, "eight tokens go to most of 8 times as many experts"
    assert reads[1] == pytest.approx(1.0)
    assert v3.of(1000) - 0.1 * 999 == pytest.approx(whole.total / whole.active)


def test_what_was_measured_counts_and_its_neighbours_are_measured_by_it():
    costs = PassCosts(DENSE)
    costs.note(1, 2.0)
    assert costs.of(1) == 2.0
    assert costs.of(5) == pytest.approx(2.0 * 1.4)
    costs.note(5, 20.0)
    assert costs.of(5) == 20.0
    assert costs.of(6) == pytest.approx(20.0 * 1.5 / 1.4)
    assert costs.of(2) == pytest.approx(2.0 * 1.1)
    for _ in range(50):
        costs.note(5, 1.0)
    assert costs.of(5) == pytest.approx(1.0, rel=0.01)


def test_a_size_has_to_be_measured_again_and_again():
    costs = PassCosts(DENSE)
    assert not costs.is_fresh(1)
    costs.note(1, 2.0)
    assert costs.is_fresh(1)
    for _ in range(100):
        costs.note(4, 3.0)
    assert (costs.is_fresh(1), costs.is_fresh(4), costs.is_fresh(100)) == (False, True, False)


def test_a_few_requests_speculate_on_a_dense_network_and_not_where_each_token_reads_its_own_experts():
    asked = offers(*[(3, 0.5)] * 4)
    assert best_length(asked, 3, PassCosts(DENSE).of) > 0
    assert best_length(asked, 3, PassCosts(PRESETS["deepseek-v3"]).of) == 0


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_sizes_are_rounded_in_order_and_by_an_eighth_at_most(one, other):
    assert rounded(one) <= one <= 1.125 * rounded(one)
    assert one > other or rounded(one) <= rounded(other)

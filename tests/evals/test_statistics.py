"""Statistics against closed forms and brute force."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from gorae.evals import bootstrap_interval, equal_groups, majority_vote, median_of_seeds, pass_at_k


def test_the_interval_agrees_with_the_exact_bootstrap_distribution_of_few_items():
    scores = [0.0, 0.1, 0.25, 0.6, 1.0]
    every_resample = [sum(drawn) / 5 for drawn in itertools.product(scores, repeat=5)]
    exact = np.percentile(every_resample, [2.5, 97.5])
    # 10,000 resamples place a 2.5% quantile within 0.5 percentage points of probability: about 0.01 here.
    assert bootstrap_interval(scores) == pytest.approx(exact, abs=0.015)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_interval_agrees_with_the_normal_approximation_for_many_items(share):
    num_items = 2000
    scores = [1.0] * round(share * num_items) + [0.0] * round((1 - share) * num_items)
    half = 1.959964 * math.sqrt(share * (1 - share) / num_items)
    # Simulation noise of the quantile is about 2% of the half width; a binomial's skew adds a little.
    assert bootstrap_interval(scores) == pytest.approx((share - half, share + half), abs=0.06 * half)


def test_the_interval_covers_the_truth_about_19_times_in_20():
    generator = np.random.default_rng(1)
    intervals = [bootstrap_interval(generator.binomial(16, 0.3, size=100) / 16, resamples=400) for _ in range(200)]
    covered = sum(low <= 0.3 <= high for low, high in intervals)
    assert 180 <= covered <= 198  # 190 expected, standard deviation 3


def test_samples_of_one_item_do_not_narrow_the_interval():
    items = [0.0, 1.0] * 50
    low, high = bootstrap_interval(items)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(100), rel=0.05)  # 100 items, not 1,600 samples


def test_the_interval_repeats_with_its_seed_and_has_no_width_without_disagreement():
    assert bootstrap_interval([0.2, 0.4, 0.9]) == bootstrap_interval([0.2, 0.4, 0.9])
    assert bootstrap_interval([0.25] * 10) == (0.25, 0.25)
    assert bootstrap_interval([1.0]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("answers", "winner"),
    [
        (["7", "3", "3"], "3"),
        (["7", "3", "3", "7"], "7"),
        (["3", "7", "7", "3"], "3"),
        ([None, None, None, "5"], "5"),
        ([None, None], None),
        ([], None),
        (["", None, None], ""),
    ],
)
def test_the_most_frequent_answer_wins_ties_go_to_the_first_and_no_answer_never_wins(answers, winner):
    assert majority_vote(answers) == winner


@given(some.lists(some.sampled_from(["1", "2", "3", None])))
def test_no_answer_is_more_frequent_than_the_winner_and_none_as_frequent_comes_before_it(answers):
    winner = majority_vote(answers)
    for other in set(answers) - {None, winner}:
        assert answers.count(winner) >= answers.count(other)
        if answers.count(winner) == answers.count(other):
            assert answers.index(winner) < answers.index(other)
    assert winner is not None or set(answers) <= {None}


def report(seconds, pass_at_1, *, models=("base",), languages=("ko",)):
    summary = {
        "pass_at_1": pass_at_1,
        "ci95": [pass_at_1 - 0.1, pass_at_1 + 0.2],
        "majority_at_16": 1.0,
        "mean_length": 20.5,
        "items": 300,
        "by_language": {language: {"pass_at_1": pass_at_1, "items": 100} for language in languages},
    }
    total = {"stage": "total", "flops": seconds * 2.0 if seconds else None, "gpu_hours": None, "usd": 0.01}
    return {"seconds": seconds, "bill": {"total": total, "stages": []}, "evaluation": dict.fromkeys(models, summary)}


def test_medians_are_taken_figure_by_figure():
    medians = median_of_seeds([report(30, 0.5), report(10, 0.9), report(20, 0.2)])
    assert medians["seconds"] == 20
    assert medians["bill"] == {"total": {"stage": "total", "flops": 40.0, "gpu_hours": None, "usd": 0.01}}
    base = medians["evaluation"]["base"]
    assert base["pass_at_1"] == 0.5
    assert base["ci95"] == [0.4, 0.7]
    assert base["items"] == 300
    assert base["by_language"] == {"ko": {"pass_at_1": 0.5, "items": 100}}


@pytest.mark.parametrize(
    ("reports", "complaint"),
    [
        ([], "no report given"),
        (
            [report(1, 0.5), report(1, 0.5, models=("base", "rl"))],
            r"report\.evaluation has .*'rl'.* in different seeds",
        ),
        ([report(1, 0.5), report(1, 0.5, languages=("zh",))], "by_language has"),
        ([report(1, 0.5), report(0, 0.5)], r"total\.flops is unknown in some seeds"),
    ],
)
def test_reports_that_do_not_match_are_an_error_that_names_the_figure(reports, complaint):
    with pytest.raises(ValueError, match=complaint):
        median_of_seeds(reports)


@given(some.integers(1, 8).flatmap(lambda n: some.tuples(some.just(n), some.integers(0, n), some.integers(1, n))))
def test_pass_at_k_is_the_share_of_all_choices_of_k_samples_that_hold_a_correct_one(drawn):
    num_samples, num_correct, k = drawn
    samples = [place < num_correct for place in range(num_samples)]
    choices = list(itertools.combinations(samples, k))
    assert pass_at_k(num_samples, num_correct, k) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_pass_at_k_of_more_samples_than_there_are_is_refused():
    with pytest.raises(ValueError, match="k=5 samples can not be judged from 4"):
        pass_at_k(4, 2, 5)


@pytest.mark.parametrize("chances", [(0.3, 0.7), (0.05, 0.95), (0.2, 0.3, 0.5)])
@pytest.mark.parametrize(("num_samples", "size"), [(2, 2), (4, 2), (5, 3), (6, 6)])
def test_the_share_of_equal_groups_is_without_bias_by_enumeration(chances, num_samples, size):
    expected = 0.0
    for drawn in itertools.product(range(len(chances)), repeat=num_samples):
        share, how = equal_groups([list(map(float, drawn))], size)
        assert how == "counted"
        expected += share * math.prod(chances[one] for one in drawn)
    assert expected == pytest.approx(sum(chance**size for chance in chances))


def test_rows_with_too_few_samples_do_not_bias_the_share_of_equal_groups():
    assert equal_groups([[1.0, 1.0, 1.0], [0.0], []], 2) == (1.0, "counted")
    with pytest.raises(ValueError, match="no row has a reward"):
        equal_groups([[], []], 2)


def test_beyond_the_samples_there_are_more_than_two_rewards_bound_the_share_from_above():
    chances, bound = (0.2, 0.3, 0.5), 0.0
    for drawn in itertools.product(range(3), repeat=3):
        share, how = equal_groups([list(map(float, drawn)), [0.0, 1.0, 2.0]], 5)
        assert how == "at most"
        bound += (2 * share - 3 * (1 / 3) ** 5) * math.prod(chances[one] for one in drawn)
    assert bound > sum(chance**5 for chance in chances)


@pytest.mark.parametrize(("a", "b"), [(0.4, 0.6), (3.0, 1.0), (0.2, 2.0)])
def test_beyond_the_samples_there_are_a_beta_distribution_of_difficulty_foretells_equal_groups(a, b):
    generator = np.random.default_rng(0)
    chances = generator.beta(a, b, size=16_000)
    rewards = [[1.0] * right + [0.0] * (8 - right) for right in generator.binomial(8, chances)]
    share, how = equal_groups(rewards, 32)
    assert how == "fitted"
    # The standard error of 16,000 rows is about 0.004.
    assert share == pytest.approx(np.mean(chances**32 + (1 - chances) ** 32), abs=0.02)


def test_rows_all_right_or_all_wrong_are_foretold_to_stay_so():
    assert equal_groups([[1.0] * 4] * 9, 16)[0] == pytest.approx(1, abs=0.01)
    assert equal_groups([[1.0] * 4, [0.0] * 4] * 9, 16)[0] == pytest.approx(1, abs=0.01)
    assert equal_groups([[1.0, 0.0] * 8] * 9, 32)[0] < 0.01

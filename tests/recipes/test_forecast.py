"""What a run will take is arithmetic over a measurement; what to change is said with numbers."""

import io
from dataclasses import asdict

import pytest
from rich.console import Console

from gorae.config import forward_flops
from gorae.engine import Output
from gorae.observe import Price, Spent
from gorae.posttrain import GrpoSettings
from gorae.recipes import forecast
from gorae.recipes.forecast import Pace, advise, as_plan, compare, cut_off, plan, plan_table
from gorae.recipes.run import ChatModel

PACE = Pace(
    sampling_seconds=10.0,
    sampled_tokens=1000,
    sampling_flops=5e9,
    cores=2.0,
    reading_flops_per_second=1e9,
    grading_seconds=0.25,
    row_length=50,
    training_flops=3e6,
    reading_flops=1e6,
)
BEFORE = {
    "pass_at_1": 0.5,
    "ci95": [0.4, 0.6],
    "reward": 0.5,
    "reward_variance": 0.25,
    "rewards": [[0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]],
    "right": [[False, True, False, True], [True, True, True, True]],
    "lengths": [10, 20, 30, 40, 10, 20, 30, 40],
    "ended_lengths": [10, 20, 30, 10, 20, 30],
    "pace": asdict(PACE),
}
SPENT = Spent(flops=7e9, tokens=1, core_seconds=30.0, wall_seconds=20.0, attempts=1)
PRICES = {"vcpu": Price("vcpu", 3.6, "2026", "a test", "made up")}


def test_a_plan_is_what_sampling_grading_and_learning_take_by_the_pace_that_was_measured():
    wanted = GrpoSettings(steps=4, num_prompts=3, num_samples=2, max_tokens=40)
    planned = plan(BEFORE, wanted, SPENT, PRICES)
    dead = (2 / 6 + 1) / 2  # two of the six pairs of the first row are alike, all of the second
    live = 3 * (1 - dead) * 2
    sampling, learning = 6 * 25 / 1000, 50 * live * (3e6 + 1e6)
    seconds = sampling * 10 + 6 * 0.25 + learning / 1e9
    assert planned["groups that teach nothing"] == pytest.approx(dead)
    assert planned["seconds a step"] == pytest.approx(seconds)
    assert planned["FLOPs"] == pytest.approx(2 * 7e9 + 4 * (sampling * 5e9 + learning))
    assert planned["price"] == pytest.approx((2 * 30 + 4 * seconds * 2) / 1000), "3.6 dollars for 3600 seconds"
    assert planned["replies cut off"] == pytest.approx(0.25)


def test_several_updates_share_what_a_batch_takes_and_refills_ask_for_more():
    few, shared = (GrpoSettings(num_prompts=4, num_samples=2, num_updates=number) for number in (1, 2))
    one, half = (plan(BEFORE, wanted, SPENT, PRICES)["seconds a step"] for wanted in (few, shared))
    assert half == pytest.approx(one / 2)
    refilled = plan(BEFORE, GrpoSettings(num_prompts=4, num_samples=2, num_refills=2), SPENT, PRICES)
    assert refilled["seconds a step"] > one
    assert refilled["groups that teach nothing"] == pytest.approx(2 / 3)


def test_replies_beyond_a_shorter_limit_are_cut_off_too_and_cost_less():
    assert [cut_off(BEFORE, limit) for limit in (40, 25, 5)] == [0.25, 0.5, 1.0]
    seconds = [plan(BEFORE, GrpoSettings(max_tokens=limit), SPENT, PRICES)["seconds a step"] for limit in (40, 10)]
    assert seconds[1] < seconds[0]


def advice(num_samples=2, max_tokens=40, **changed) -> str:
    wanted = GrpoSettings(num_samples=num_samples, max_tokens=max_tokens)
    return "\n".join(advise(BEFORE | changed, wanted))


def test_advice_on_the_size_of_groups_compares_with_twice_as_many():
    assert "with rl.num_samples 4 instead of 2, 50% instead of 67% of groups would teach nothing" in advice()
    fitted = advice(num_samples=4)
    assert "with rl.num_samples 8 instead of 4, " in fitted
    assert "(by a beta distribution of difficulty) instead of 50% of groups" in fitted
    bound = advice(num_samples=8, rewards=[[0.0, 0.5, 1.0], [1.0, 1.0, 1.0]])
    assert "50% (at most) instead of 50% (at most)" in bound


def test_advice_says_where_half_as_many_would_do():
    mixed = [[0.0, 1.0] * 8] * 3
    assert "rl.num_samples 8 instead of 16 would cost half, and 0% instead of 0%" in advice(16, rewards=mixed)


@pytest.mark.parametrize(
    ("max_tokens", "told"),
    [
        (40, "at most 30 tokens; rl.max_tokens 40 cuts off 25%"),
        (25, "rl.max_tokens 25 cuts off 50%, which earn what a reply without an end earns"),
    ],
)
def test_advice_on_length_knows_what_is_cut_off(max_tokens, told):
    assert told in advice(max_tokens=max_tokens)


def test_advice_on_length_says_what_is_enough():
    whole = {"ended_lengths": BEFORE["lengths"]}
    assert "95% of replies that ended had at most 40 tokens; rl.max_tokens 52 is enough" in advice(2, 52, **whole)
    assert "rl.max_tokens 80 instead of 300 would be enough" in advice(2, 300, **whole)
    assert "no reply ended within 40 tokens; raise evaluate.max_tokens" in advice(ended_lengths=[])


def test_advice_on_difficulty_counts_rows_that_are_answered_always_or_never():
    assert "rows answered always: 50%, never: 0%" in advice()
    assert "harder rows would teach more" in advice()
    assert "easier rows" in advice(right=[[False] * 4, [False, True]])
    assert "rows answered" not in advice(right=[[False, True], [False, True]])


def shown(table) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_a_forecast_shows_pass_at_1_with_its_interval_and_what_came_is_held_against_it():
    planned = plan(BEFORE, GrpoSettings(), SPENT, PRICES)
    told = shown(plan_table(BEFORE, as_plan(planned)))
    assert "pass@1" in told
    assert "50.0%, 95% 40.0% to 60.0%" in told
    assert "actual" not in told
    actual = dict.fromkeys(planned, 0.5)
    compared = compare(planned | {"replies cut off": 0.0}, actual)
    assert compared["groups that teach nothing"]["ratio"] == pytest.approx(0.5 / planned["groups that teach nothing"])
    assert compared["replies cut off"]["ratio"] is None
    told = shown(plan_table(BEFORE, compared))
    assert "actual" in told
    assert "ratio" in told


def test_the_pace_of_reading_is_that_of_a_batch_that_fits_and_is_billed(network, tokenizer, meter):
    model = ChatModel(network, network.config, tokenizer)
    outputs = [Output([5] * 9, "", [], "stop", [1, 2, 3])] * 400
    before = meter.spent
    assert forecast.reading_pace(model, outputs, meter) > 0
    num_rows = forecast.READ_TOKENS // 12
    assert meter.spent.tokens - before.tokens == 2 * num_rows * 12
    expected = 2 * forward_flops(network.config, num_rows * 12, context=6)
    assert meter.spent.flops - before.flops == pytest.approx(expected)
    long = [Output([5] * 5000, "", [], "stop", [1, 2, 3])]
    assert forecast.reading_pace(model, long, meter) > 0, "the end of a row that is too long"


def test_what_an_environment_wrote_was_not_sampled(network, tokenizer, meter):
    model = ChatModel(network, network.config, tokenizer)
    outputs = [Output([5] * 9, "", [0.0] * 4, "stop", [1, 2, 3])] * 2
    before, after = Spent(flops=1.0), Spent(flops=9.0, core_seconds=6.0, wall_seconds=3.0)
    pace = forecast.take_pace(model, outputs, meter, before=before, after=after, grading_seconds=1.0)
    assert (pace.sampled_tokens, pace.row_length, pace.sampling_flops) == (8, 12, 8.0)
    assert (pace.cores, pace.sampling_seconds, pace.grading_seconds) == (2.0, 3.0, 0.5)

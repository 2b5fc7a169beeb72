"""Alarms ring for what goes wrong in a run, after as many steps as it takes to be sure, and once."""

import pytest

from gorae.observe import ALARMS, Watch

FINE = {
    "mismatch_kl": 0.0,
    "completions/ungraded_ratio": 0.0,
    "frac_reward_zero_std": 0.3,
    "completions/clipped_ratio": 0.1,
    "entropy": 0.5,
    "dead_experts": 0.1,
    "grad_norm": 1.0,
}
BAD = {
    "mismatch_kl": 1e-4,
    "completions/ungraded_ratio": 0.2,
    "frac_reward_zero_std": 1.0,
    "completions/clipped_ratio": 0.9,
    "entropy": 0.0,
    "dead_experts": 0.6,
    "grad_norm": 100.0,
}


def test_nothing_rings_while_all_is_well_nor_for_figures_that_are_not_there():
    watch = Watch()
    assert not any(watch.see(step, FINE) + watch.see(step, {"loss": 1.0}) for step in range(50))
    assert not watch.rung


@pytest.mark.parametrize("alarm", ALARMS, ids=[alarm.figure for alarm in ALARMS])
def test_an_alarm_rings_once_its_figure_was_bad_for_so_many_steps(alarm):
    watch = Watch()
    for step in range(30):
        assert not watch.see(step, FINE)
    bad = FINE | {alarm.figure: BAD[alarm.figure]}
    rung = [watch.see(step, bad) for step in range(30, 40)]
    assert rung == [[alarm] if number == alarm.steps - 1 else [] for number in range(10)]
    assert watch.rung == {alarm: 30 + alarm.steps - 1}


def test_a_bad_step_between_good_ones_is_no_alarm_where_it_takes_several():
    watch = Watch()
    bad = FINE | {"entropy": 0.0}
    assert not any(watch.see(step, bad if step % 5 else FINE) for step in range(40))


def test_a_first_gradient_is_no_spike():
    watch = Watch()
    assert not any(watch.see(step, {"grad_norm": 1000.0 if step == 3 else 1.0}) for step in range(20))

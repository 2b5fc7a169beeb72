"""What in a run's metrics means that it goes wrong, in words, with the cause that is most likely.

Nouns: an Alarm, a figure and when it is bad; a Watch, which sees step after step. An alarm rings when its figure has
been bad for some steps in a row, and once a run. Knows no model.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

SPIKE = 30.0  # times the median of what was usual
USUAL = 20  # steps


@dataclass(frozen=True)
class Alarm:
    """`is_bad(value, past)`, where the past is what the figure was at the steps before."""

    figure: str
    steps: int
    is_bad: Callable[[float, Sequence[float]], bool]
    told: str


def _above(bound: float) -> Callable[[float, Sequence[float]], bool]:
    return lambda value, _: value > bound


def _is_spike(value: float, past: Sequence[float]) -> bool:
    return len(past) >= USUAL and value > SPIKE * median(past[-USUAL:])


ALARMS = (
    Alarm("mismatch_kl", 1, _above(1e-6), "engine and trainer disagree; gorae parity says where"),
    Alarm("completions/ungraded_ratio", 3, _above(0.1), "more than a tenth of replies are not graded; see gorae tasks"),
    Alarm("frac_reward_zero_std", 5, _above(0.9), "nearly all groups earn the same; change the task or rl.num_samples"),
    Alarm("completions/clipped_ratio", 5, _above(0.5), "most replies are cut off; raise rl.max_tokens"),
    Alarm("entropy", 5, lambda value, _: value < 1e-3, "nothing is left to choose; stop, or lower the learning rate"),
    Alarm("dead_experts", 5, _above(0.5), "most experts get no token; see rl.router_bias, or learn from more replies"),
    Alarm("grad_norm", 1, _is_spike, "a gradient far larger than usual; look at what was learnt from in this step"),
)


class Watch:
    """Which alarms have rung, and at which step each."""

    def __init__(self) -> None:
        self.rung: dict[Alarm, int] = {}
        self.past: dict[str, list[float]] = defaultdict(list)
        self.bad_steps: dict[Alarm, int] = defaultdict(int)

    def see(self, step: int, figures: Mapping[str, float]) -> list[Alarm]:
        """The alarms that ring for the first time."""
        rings = [alarm for alarm in ALARMS if alarm.figure in figures and self._rings(alarm, figures[alarm.figure])]
        for alarm in ALARMS:
            self.past[alarm.figure] += [figures[alarm.figure]] if alarm.figure in figures else []
        new = [alarm for alarm in rings if alarm not in self.rung]
        self.rung.update((alarm, step) for alarm in new)
        return new

    def _rings(self, alarm: Alarm, value: float) -> bool:
        self.bad_steps[alarm] = self.bad_steps[alarm] + 1 if alarm.is_bad(value, self.past[alarm.figure]) else 0
        return self.bad_steps[alarm] >= alarm.steps


def rung(metrics: Sequence[Mapping[str, float]]) -> list[str]:
    """Every alarm that rings over a run's metrics, in words."""
    watch = Watch()
    for record in metrics:
        watch.see(int(record["step"]), record)
    return [f"{alarm.figure}, step {step}: {alarm.told}" for alarm, step in watch.rung.items()]

"""What was published of reasoning by reinforcement learning, each said of two of our models in one figure.

Nouns: a Claim; a Value, a model's figure in a summary, with its interval where it has one. A claim is reproduced where
it holds in every seed: with intervals that do not touch, where there are intervals. Knows no run folder.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Summaries = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Claim:
    """`above` has more of `figure` than `below`; with `is_denied` it has not. `figure_below` where that is another."""

    told: str
    published: str
    above: str
    below: str
    figure: str = "pass_at_1"
    figure_below: str | None = None
    is_denied: bool = False

    def holds(self, seed: Summaries) -> bool:
        upper, lower = self.values(seed)
        return (upper.low > lower.high) != self.is_denied

    def values(self, seed: Summaries) -> tuple["Value", "Value"]:
        return Value.of(seed[self.above], self.figure), Value.of(seed[self.below], self.figure_below or self.figure)


@dataclass(frozen=True)
class Value:
    middle: float
    low: float
    high: float

    @staticmethod
    def of(summary: Mapping[str, Any], figure: str) -> "Value":
        """`figure` of a summary; "majority" is that of as many samples as there are."""
        if figure == "majority":
            figure = next(name for name in summary if name.startswith("majority_at_"))
        low, high = summary["ci95"] if figure == "pass_at_1" else [summary[figure]] * 2
        return Value(summary[figure], low, high)


CLAIMS = (
    Claim("RL lifts pass@1", "AIME 2024: 15.6% to 71.0%, R1-Zero (arXiv 2501.12948 v1; v2: 77.9%)", "rl", "base"),
    Claim("RL alone lifts the base model, without a cold start", "the same row: R1-Zero", "zero", "zero_base"),
    Claim("random rewards lift nothing", "none by DeepSeek", "control", "base", is_denied=True),
    Claim("replies grow longer", "R1-Zero's do over its whole training (v1, figure 3)", "rl", "base", "mean_length"),
    Claim(
        "replies grow longer without a cold start", "the same row: R1-Zero", "zero", "zero_base", figure="mean_length"
    ),
    Claim(
        "a majority is right more often than one reply",
        "AIME 2024: 71.0% to 86.7% of 64, R1-Zero (v1)",
        above="rl",
        below="rl",
        figure="majority",
        figure_below="pass_at_1",
    ),
    Claim("a cold start before RL is better than RL alone", "AIME 2024: 79.8% R1, 71.0% R1-Zero (v1)", "rl", "zero"),
    Claim(
        "the language reward mends mixed languages",
        "said without a figure (v1, section 2.3.2)",
        above="mixed_consistent",
        below="mixed",
        figure="consistency",
    ),
    Claim("and costs some accuracy", "slightly (v1, section 2.3.2)", "mixed", "mixed_consistent"),
    Claim(
        "a small model learns more from a teacher than by RL, at equal compute",
        "AIME 2024: 72.6% distilled, 47.0% by RL, Qwen-32B (v1); compute not equal",
        above="student_distilled",
        below="student_rl",
    ),
    Claim(
        "learning on one's own samples is better than on the teacher's, at equal compute",
        "V4 chose it; no figure by DeepSeek",
        above="student_policy",
        below="student_distilled",
    ),
    Claim(
        "a teacher's logits teach more than its samples, at equal compute",
        "none by DeepSeek",
        above="student_logits",
        below="student_distilled",
    ),
    Claim(
        "rollouts of another numerics harm RL",
        "Qwen3-30B-A3B: 62.23 without routing replay, 71.83 with it (arXiv 2510.11370)",
        above="rl",
        below="int4",
    ),
    Claim("a correction repairs that", "the same row", "int4_corrected", "int4"),
)


def claims_table(seeds: Sequence[Summaries]) -> Iterator[tuple[str, ...]]:
    """A heading, then a row for each claim: medians of both figures with their range over seeds, the verdict."""
    yield ("claim", "from", "to", "held in", "published")
    for claim in CLAIMS:
        pairs = [claim.values(seed) for seed in seeds]
        upper, lower = zip(*pairs, strict=True)
        held = sum(claim.holds(seed) for seed in seeds)
        figures = (claim.figure_below or claim.figure, claim.figure)
        told = (_told(values, figure) for values, figure in zip((lower, upper), figures, strict=True))
        names = (claim.below, claim.above)
        cells = (f"{name} {value}" for name, value in zip(names, told, strict=True))
        yield (claim.told, *cells, f"{held} of {len(seeds)}", claim.published)


def _told(values: Sequence[Value], figure: str) -> str:
    """The median, and in brackets the smallest and largest."""
    scale, unit = (1, " tokens") if figure == "mean_length" else (100, "%")
    middles = sorted(scale * value.middle for value in values)
    return f"{median(middles):.1f}{unit} ({middles[0]:.1f}–{middles[-1]:.1f})"

"""What samples say about a model: the interval around a mean over items, the answer most samples agree on, medians.

Knows only numbers and answers; no model, no task.
"""

import math
import statistics
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np


def bootstrap_interval(scores: Sequence[float], *, resamples: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of the mean of `scores`, one score an item.

    Items are drawn again with replacement, with all their samples: two samples of one item are not independent, so an
    interval over samples would be too narrow. Items that all score alike give an interval without width.
    """
    values = np.asarray(scores, dtype=np.float64)
    assert values.size > 0, "no scores: one item at least has an interval"
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(values.size, size=values.size)].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """The chance that one of `k` samples is correct, from more of them, without bias (arXiv 2107.03374, eq. 1).

    1 - C(n - c, k) / C(n, k). Raises ValueError for more samples than there are.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"k={k} samples can not be judged from {num_samples}; take 1 to as many as there are")
    return 1 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def equal_groups(rewards: Sequence[Sequence[float]], size: int) -> tuple[float, str]:
    """The share of groups of `size` replies to a row that all earn the same, and how it is known from `rewards` by row.

    "counted": of all the ways to choose `size` of a row's replies, which is without bias; from rows with so many.
    "fitted": where no row has so many and there are two rewards at most: rows are taken to be right with chances that
    follow a beta distribution, the likeliest one. "at most": else, the shares of equal rewards to the power of `size`.
    Raises ValueError without a row that has a reward.
    """
    counts = [Counter(row) for row in rewards if row]
    if not counts:
        raise ValueError("no row has a reward; of no groups there is no share")
    if enough := [count for count in counts if count.total() >= size]:
        chances = [sum(math.comb(n, size) for n in c.values()) / math.comb(c.total(), size) for c in enough]
        return statistics.fmean(chances), "counted"
    values = sorted(set().union(*counts))
    if len(values) > 2:
        return statistics.fmean(sum((n / c.total()) ** size for n in c.values()) for c in counts), "at most"
    a, b = _likeliest_beta(Counter((count[values[-1]], count.total() - count[values[-1]]) for count in counts))
    places = np.arange(size)
    right, wrong = (float(np.prod((one + places) / (a + b + places))) for one in (a, b))
    return right + wrong, "fitted"


def _likeliest_beta(rows: Mapping[tuple[int, int], int]) -> tuple[float, float]:
    """The parameters under which so many rows with so many right and wrong replies are likeliest, from 0.001 to 1000.

    A row's likelihood is B(a + right, b + wrong) / B(a, b), whose factors are a + i, b + i and a + b + i.
    """
    middle, reach = np.zeros(2), math.log(1000)
    for _ in range(6):  # ever finer around the best so far
        a, b = np.exp(middle[:, None] + np.linspace(-reach, reach, 41)).clip(1e-3, 1e3)
        found = np.zeros((len(a), len(b)))
        for (right, wrong), num_rows in rows.items():
            one = np.log(a[:, None] + np.arange(right)).sum(-1)[:, None]
            other = np.log(b[:, None] + np.arange(wrong)).sum(-1)
            both = np.log((a[:, None] + b)[..., None] + np.arange(right + wrong)).sum(-1)
            found += num_rows * (one + other - both)
        best = np.unravel_index(found.argmax(), found.shape)
        middle, reach = np.log([a[best[0]], b[best[1]]]), reach / 8
    return float(np.exp(middle[0])), float(np.exp(middle[1]))


def majority_vote(answers: Sequence[Hashable | None]) -> Hashable | None:
    """The most frequent answer, the first seen of several; None, no answer, wins only if there is no other."""
    counts = Counter(answer for answer in answers if answer is not None)
    return max(counts, key=counts.__getitem__, default=None)


def median_of_seeds(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The medians over the reports of several seeds: `seconds`, the total of the `bill` and the whole `evaluation`.

    Each figure is taken on its own, the two ends of an interval included. A figure unknown to every seed stays None.
    Raises ValueError, naming the figure, if the reports do not hold the same models, languages or lengths.
    """
    if not reports:
        raise ValueError("no report given; the medians need the report of at least one seed")
    of_interest = [
        {"seconds": report["seconds"], "bill": {"total": report["bill"]["total"]}, "evaluation": report["evaluation"]}
        for report in reports
    ]
    return _median(of_interest, where="report")


def _median(values: Sequence[Any], *, where: str) -> Any:
    first = values[0]
    if isinstance(first, dict):
        if any(set(value) != set(first) for value in values):
            raise ValueError(
                f"{where} has {' and '.join(sorted({str(list(value)) for value in values}))} in different seeds"
            )
        return {name: _median([value[name] for value in values], where=f"{where}.{name}") for name in first}
    if isinstance(first, list | tuple):
        if any(len(value) != len(first) for value in values):
            raise ValueError(f"{where} has different lengths in different seeds")
        return [_median(column, where=where) for column in zip(*values, strict=True)]
    if isinstance(first, str) or all(value is None for value in values):
        if any(value != first for value in values):
            raise ValueError(f"{where} differs between seeds: {', '.join(map(repr, values))}")
        return first
    if any(value is None for value in values):
        raise ValueError(f"{where} is unknown in some seeds and known in others")
    return statistics.median(values)

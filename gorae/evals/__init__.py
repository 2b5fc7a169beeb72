"""Measuring a model: sampling and grading sealed items, the statistics of the result, reports, pictures."""

from gorae.evals.curves import draw_curves
from gorae.evals.report import evaluation_markdown, print_table, write_report
from gorae.evals.run import Evaluation, Sample, consistency_of, evaluate
from gorae.evals.statistics import bootstrap_interval, equal_groups, majority_vote, median_of_seeds, pass_at_k

__all__ = [
    "Evaluation",
    "Sample",
    "bootstrap_interval",
    "consistency_of",
    "draw_curves",
    "equal_groups",
    "evaluate",
    "evaluation_markdown",
    "majority_vote",
    "median_of_seeds",
    "pass_at_k",
    "print_table",
    "write_report",
]

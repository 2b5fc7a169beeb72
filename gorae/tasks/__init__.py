"""Problems with checkable answers: what is asked, what counts as right. Knows no model."""

from gorae.tasks.counter import LANGUAGES, Problem, SealedItems, draw_problem, draw_problems, drill
from gorae.tasks.grade import Grade, grade_reply
from gorae.tasks.sandbox import (
    Judgement,
    Outcome,
    Protections,
    RunLimits,
    SandboxError,
    judge_by_output,
    judge_by_tests,
    protections,
    run_python,
)

__all__ = [
    "LANGUAGES",
    "Grade",
    "Judgement",
    "Outcome",
    "Problem",
    "Protections",
    "RunLimits",
    "SandboxError",
    "SealedItems",
    "draw_problem",
    "draw_problems",
    "drill",
    "grade_reply",
    "judge_by_output",
    "judge_by_tests",
    "protections",
    "run_python",
]

"""Problems with checkable answers: what is asked, what counts as right. Knows no model."""

from gorae.tasks.counter import LANGUAGES, Problem, SealedItems, draw_problem, draw_problems, drill
from gorae.tasks.environment import Scene
from gorae.tasks.grade import Grade, grade_reply
from gorae.tasks.grading import Answer, Environments, Graders, Verdict
from gorae.tasks.library import Index, Library
from gorae.tasks.probe import Examination, Finding, earns_full_marks, examine
from gorae.tasks.process import GraderError, Limits
from gorae.tasks.read import READY, load_task
from gorae.tasks.rewards import (
    reward_code,
    reward_exact,
    reward_format,
    reward_json,
    reward_language,
    reward_math,
)
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
from gorae.tasks.task import Reply, Row, Task, identity_of

__all__ = [
    "LANGUAGES",
    "READY",
    "Answer",
    "Environments",
    "Examination",
    "Finding",
    "Grade",
    "GraderError",
    "Graders",
    "Index",
    "Judgement",
    "Library",
    "Limits",
    "Outcome",
    "Problem",
    "Protections",
    "Reply",
    "Row",
    "RunLimits",
    "SandboxError",
    "Scene",
    "SealedItems",
    "Task",
    "Verdict",
    "draw_problem",
    "draw_problems",
    "drill",
    "earns_full_marks",
    "examine",
    "grade_reply",
    "identity_of",
    "judge_by_output",
    "judge_by_tests",
    "load_task",
    "protections",
    "reward_code",
    "reward_exact",
    "reward_format",
    "reward_json",
    "reward_language",
    "reward_math",
    "run_python",
]

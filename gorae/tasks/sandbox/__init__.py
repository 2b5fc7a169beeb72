"""A stranger's Python code: run where it can reach nothing, judged where it can not lie."""

from gorae.tasks.sandbox.judge import Judgement, judge_by_output, judge_by_tests
from gorae.tasks.sandbox.run import Outcome, Protections, RunLimits, SandboxError, protections, run_python

__all__ = [
    "Judgement",
    "Outcome",
    "Protections",
    "RunLimits",
    "SandboxError",
    "judge_by_output",
    "judge_by_tests",
    "protections",
    "run_python",
]

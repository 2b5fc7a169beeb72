"""A stranger's Python code: run where it can reach nothing, judged where it can not lie."""

from gorae.tasks.sandbox.judge import Verdict, judge_by_output, judge_by_tests
from gorae.tasks.sandbox.run import Limits, Outcome, Protections, SandboxError, protections, run_python

__all__ = [
    "Limits",
    "Outcome",
    "Protections",
    "SandboxError",
    "Verdict",
    "judge_by_output",
    "judge_by_tests",
    "protections",
    "run_python",
]

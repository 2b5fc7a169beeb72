"""Is a program right? Judged by what it prints, or by tests that call it.

What is expected never enters the process of the program that is judged, and the verdict is formed outside of it: so
whatever it prints, patches, raises or ends with, it passes only by giving the values that are asked for. What remains:
it sees every input and may know the tests by heart; tests may ask too little; what a test lets the answer decide (a
comparison that is itself a function of the answer's) the answer decides; and the kernel may have holes.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gorae.tasks.sandbox.exchange import BROKEN_OFF, FAILED, PASSED
from gorae.tasks.sandbox.run import Outcome, RunLimits, run_python, start, usable_protections


@dataclass(frozen=True)
class Judgement:
    """Whether an answer passed, and a sentence on why not."""

    passed: bool
    why: str = ""


def judge_by_output(
    program: str,
    cases: Sequence[tuple[str, str]],
    *,
    limits: RunLimits | None = None,
    allow_unprotected: bool = False,
) -> Judgement:
    """Run a program once for each case of (stdin, expected stdout), up to the first it fails.

    Spaces at the ends of lines and empty lines at the end do not count. Raises SandboxError as `run_python` does.
    """
    if not cases:
        raise ValueError("without cases every program would pass; give at least one pair of stdin and expected stdout")
    for number, (stdin, expected) in enumerate(cases, start=1):
        outcome = run_python(program, stdin=stdin, limits=limits, allow_unprotected=allow_unprotected)
        if not outcome.ended_well:
            return Judgement(False, f"case {number}: {_end(outcome)}")
        if _lines(outcome.stdout) != _lines(expected):
            return Judgement(False, f"case {number}: printed {outcome.stdout[:200]!r}, expected {expected[:200]!r}")
    return Judgement(True)


def judge_by_tests(
    answer: str, tests: str, *, limits: RunLimits | None = None, allow_unprotected: bool = False
) -> Judgement:
    """Run Python `tests` (asserts, or HumanEval's `check` with a call to it) against `answer`: passed if all hold.

    Tests and answer run in a sandbox each, with the limits each. Names that the tests do not define are looked up in
    the answer; calls go over as plain data (numbers, texts, lists, tuples, dicts, sets, Decimal, Fraction) and come
    back so, while other objects stay with the answer and can be called, iterated over and asked for attributes. A list,
    dict or set that was handed to a function that returns None is as the function left it. An exception arrives as the
    builtin one it derives from.

    Raises ValueError where the tests are at fault: no Python, no use of the answer, or a function handed to it.
    Raises SandboxError as `run_python` does.
    """
    layers = usable_protections(allow_unprotected=allow_unprotected).layers
    ask, asked = os.pipe(), os.pipe()
    try:
        side = {"read": ask[0], "write": asked[1]}
        answering = start(_exchange(), layers, stdin=json.dumps(side), limits=limits, pass_fds=tuple(side.values()))
        side = {"read": asked[0], "write": ask[1]}
        stdin = json.dumps({**side, "answer": answer, "tests": tests})
        testing = start(_exchange(), layers, stdin=stdin, limits=limits, pass_fds=tuple(side.values()))
    finally:
        for descriptor in (*ask, *asked):
            os.close(descriptor)
    with ThreadPoolExecutor(1) as pool:
        answered = pool.submit(answering.wait)
        tested = testing.wait()
        if tested.reason != "ended":  # else the pipe is closed, and it ends by itself
            answering.process.kill()
        return _verdict(tested, answered.result())


def _verdict(tested: Outcome, answered: Outcome) -> Judgement:
    if tested.reason != "ended":
        return Judgement(False, f"the tests {_end(tested)}")
    if tested.exit_code == PASSED:
        return Judgement(True)
    if tested.exit_code == BROKEN_OFF:
        return Judgement(False, f"the answer {_end(answered)} before the tests were done")
    if tested.exit_code == FAILED:
        return Judgement(False, _last_line(tested.stderr))
    raise ValueError(f"no verdict: {_last_line(tested.stderr)}")


def _end(outcome: Outcome) -> str:
    """How a run that did not end well ended, with the last it said."""
    how = {
        "ended": f"ended with exit code {outcome.exit_code}",
        "time": "took too much time",
        "memory": "took too much memory",
        "output": "printed too much",
        "killed": f"died of signal {-outcome.exit_code}",
    }[outcome.reason]
    last = _last_line(outcome.stderr)
    return f"{how} ({last})" if last else how


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2][:500]


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


@cache
def _exchange() -> str:
    return Path(__file__).with_name("exchange.py").read_text(encoding="utf-8")

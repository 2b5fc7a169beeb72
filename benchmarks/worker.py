"""A process that holds an engine under test, called a peer, and does one thing after the other as it is asked to.

A question is a line of JSON, the name of a peer's method and its arguments, and so is the answer (answer.py is the
other side). What waits for its turn is stopped, since its threads would spin.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from gorae.observe import HeldMemory, held_memory


class Worker:
    """The process of `program`, which loads `path`; `load_seconds` is how long, its imports left out."""

    def __init__(self, program: str, path: Path, *, checkout: Path | None = None, **options: Any) -> None:
        """`checkout` is where its gorae is taken from, if not from where ours is."""
        command = [sys.executable, str(Path(__file__).parent / program), str(path), json.dumps(options)]
        place = os.environ | {"PYTHONPATH": str(checkout or Path(__file__).parents[1])}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=place)
        self.load_seconds: float = self._answer()
        self.process.send_signal(signal.SIGSTOP)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def ask(self, what: str, **options: Any) -> Any:
        """Let the process go on, to do one thing and to say what came of it."""
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        print(json.dumps([what, options]), file=self.process.stdin, flush=True)
        answer = self._answer()
        self.process.send_signal(signal.SIGSTOP)
        return answer

    def memory(self) -> HeldMemory:
        held = held_memory(self.process.pid)
        assert held is not None, "this system does not say what a process holds"
        return held

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.process.args} ended early, with status {self.process.wait()}")
        return json.loads(answer)


def spread(ratios: Sequence[float]) -> tuple[float, float, float]:
    """The median and the quartiles of what pairs of turns gave."""
    low, _, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else (ratios[0],) * 3
    return median(ratios), low, high

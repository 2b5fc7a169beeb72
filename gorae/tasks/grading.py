"""Graders in processes of their own, with limits of time and memory. An error is an error, never a reward of 0.

Nouns: Graders, the processes that hold a task; a Verdict, what became of one reply. A call gets the replies to one
prompt; where that fails, each of them alone, and once more: only what fails again is an error. Knows no model.
"""

import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from time import monotonic
from types import TracebackType
from typing import Any, Self

from gorae.tasks.task import Reply, Row


@dataclass(frozen=True)
class Limits:
    """Of one call: seconds on the clock; of one process: bytes of address space, and seconds until it has its task."""

    seconds: float = 10.0
    memory_bytes: int = 4 << 30
    seconds_to_start: float = 120.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name}={value} must be more than 0")


@dataclass(frozen=True)
class Verdict:
    """The reward of a reply and what each function gave; None where nothing applied, or where `error` says what failed."""

    reward: float | None
    parts: Mapping[str, float | None] = field(default_factory=dict)
    error: str | None = None


class GraderError(ValueError):
    """A task failed to do what it must: to load, to draw rows, to say what is right."""


class _Died(Exception):
    """A process ended, or was ended, before it answered."""


class _Process:
    """One process that holds the task."""

    def __init__(self, source: str, limits: Limits) -> None:
        self.limits = limits
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gorae.tasks.worker", source, str(theirs.fileno()), str(limits.memory_bytes)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,
                env=os.environ | {"PYTHONHASHSEED": "0"},  # some families of reasoning-gym draw by it
                start_new_session=True,  # a signal then reaches whatever it has started
            )
        self.connection = Connection(ours.detach())
        self.deadline = monotonic() + limits.seconds_to_start
        try:
            self.answer()
        except _Died as error:
            raise GraderError(f"{source} could not be loaded: {error}") from error

    def begin(self, *request: Any) -> None:
        self.deadline = monotonic() + self.limits.seconds
        self.connection.send(request)

    def answer(self) -> Any:
        """What it answers before its deadline. Raises GraderError for what the task raised, `_Died` if it is gone."""
        if not self.connection.poll(max(0.0, self.deadline - monotonic())):
            self.end()
            raise _Died("it took too long and was ended")
        try:
            is_well, answer = self.connection.recv()
        except EOFError:
            self.end()
            raise _Died(f"its process ended with status {self.process.returncode}") from None
        if not is_well:
            raise GraderError(answer)
        return answer

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.connection.close()


@dataclass
class _Job:
    row: Row
    replies: list[Reply]
    places: list[int]
    tries_left: int


class Graders:
    """A task in `num_processes` processes. Raises GraderError if it can not be loaded.

    seconds of a call: `limits`, for all replies to a prompt together.
    """

    def __init__(self, source: str, *, num_processes: int = 1, limits: Limits = Limits()) -> None:
        self.source, self.limits = source, limits
        self.idle = [_Process(source, limits) for _ in range(num_processes)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self.idle:
            process.end()

    def rows(self, seed: int, first: int, count: int, *, without: frozenset[str] = frozenset()) -> list[Row]:
        """Rows `first` to `first + count` from a seed, of those that are not among these identities."""
        return self._ask("rows", seed, first, count, without)

    def num_rows(self) -> int | None:
        """How many rows the task has; None if it draws them without end."""
        return self._ask("num_rows")

    def oracle(self, rows: Sequence[Row]) -> list[str]:
        """The right content of a reply to each row."""
        return self._ask("oracle", rows)

    def grade(self, rows: Sequence[Row], groups: Sequence[Sequence[Reply]]) -> list[list[Verdict]]:
        """A verdict on each reply of each group, the replies to one row."""
        verdicts: dict[int, Verdict] = {}
        firsts = [sum(map(len, groups[:number])) for number in range(len(groups) + 1)]
        waiting = deque(
            _Job(row, list(group), list(range(first, first + len(group))), tries_left=1)
            for row, group, first in zip(rows, groups, firsts, strict=False)
            if group
        )
        busy: dict[Connection, tuple[_Process, _Job]] = {}
        while waiting or busy:
            while waiting and self.idle:
                process, job = self.idle.pop(), waiting.popleft()
                process.begin("reward", [job.row] * len(job.replies), job.replies)
                busy[process.connection] = process, job
            nearest = min(process.deadline for process, _ in busy.values())
            answered = wait(list(busy), timeout=max(0.0, nearest - monotonic()))
            late = [connection for connection, (process, _) in busy.items() if process.deadline <= monotonic()]
            for connection in {*answered, *late}:
                process, job = busy.pop(connection)
                try:
                    found = [Verdict(reward, parts) for reward, parts in process.answer()]
                except (GraderError, _Died) as error:
                    found = _after(job, error, waiting)
                verdicts.update(zip(job.places, found, strict=False))
                self.idle.append(process if process.process.poll() is None else _Process(self.source, self.limits))
        return [[verdicts[place] for place in range(first, last)] for first, last in zip(firsts, firsts[1:])]

    def _ask(self, *request: Any) -> Any:
        process = self.idle[0]
        process.begin(*request)
        try:
            return process.answer()
        except _Died as error:
            self.idle[0] = _Process(self.source, self.limits)
            raise GraderError(f"{self.source} was asked for {request[0]}: {error}") from error


def _after(job: _Job, error: Exception, waiting: deque[_Job]) -> list[Verdict]:
    """Put what is tried again back into the queue; the verdict, where there is no more try."""
    if len(job.replies) > 1:
        waiting.extend(_Job(job.row, [one], [place], 1) for one, place in zip(job.replies, job.places, strict=True))
    elif job.tries_left:
        waiting.append(_Job(job.row, job.replies, job.places, job.tries_left - 1))
    else:
        return [Verdict(None, error=str(error))]
    return []

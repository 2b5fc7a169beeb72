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
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
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
    """The reward of a reply and what each function gave; None where nothing applied, or something failed: `error`."""

    reward: float | None
    parts: Mapping[str, float | None] = field(default_factory=dict)
    error: str | None = None


class GraderError(ValueError):
    """A task failed to do what it must: to load, to draw rows, to say what is right."""


class _DiedError(Exception):
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
        except (GraderError, _DiedError) as error:
            self.end()
            raise GraderError(f"{source} could not be loaded: {error}") from error

    def begin(self, *request: Any) -> None:
        self.deadline = monotonic() + self.limits.seconds
        with suppress(ConnectionError):  # where the process is gone, `answer` finds so
            self.connection.send(request)

    def answer(self) -> Any:
        """What it answers in time. Raises GraderError for what the task raised, `_DiedError` if it is gone."""
        if not self.connection.poll(max(0.0, self.deadline - monotonic())):
            self.end()
            raise _DiedError("it took too long and was ended")
        try:
            is_well, answer = self.connection.recv()
        except (EOFError, ConnectionError):
            self.end()
            raise _DiedError(f"its process ended with status {self.process.returncode}") from None
        if not is_well:
            raise GraderError(answer)
        return answer

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.connection.close()


@dataclass(frozen=True)
class _Job:
    """Replies to a row, and which they are of all."""

    row: Row
    replies: list[Reply]
    places: list[int]
    is_last_try: bool = False

    def tried_again(self) -> list["_Job"]:
        """Each reply alone, and a reply alone once more."""
        if len(self.replies) == 1:
            return [] if self.is_last_try else [replace(self, is_last_try=True)]
        pairs = zip(self.replies, self.places, strict=True)
        return [_Job(self.row, [reply], [place]) for reply, place in pairs]


class Graders:
    """A task in `num_processes` processes; `limits.seconds` are those for all replies to a prompt together.

    Raises GraderError if the task can not be loaded.
    """

    def __init__(self, source: str, *, num_processes: int = 1, limits: Limits = Limits()) -> None:
        self.source, self.limits = source, limits
        self.processes: list[_Process] = []
        try:
            for _ in range(num_processes):
                self.processes.append(_Process(source, limits))
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def end(self) -> None:
        """End the processes, and whatever they have started."""
        for process in self.processes:
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
        numbers = count()
        places = [[next(numbers) for _ in group] for group in groups]
        jobs = zip(rows, groups, places, strict=True)
        waiting = deque(_Job(row, list(group), at) for row, group, at in jobs if group)
        verdicts: dict[int, Verdict] = {}
        idle = list(range(len(self.processes)))
        busy: dict[int, _Job] = {}
        while waiting or busy:
            while waiting and idle:
                job = busy[number := idle.pop()] = waiting.popleft()
                self.processes[number].begin("reward", [job.row] * len(job.replies), job.replies)
            for number in self._ready(busy):
                job = busy.pop(number)
                try:
                    found = self._answer(number)
                    verdicts.update((at, Verdict(*one)) for at, one in zip(job.places, found, strict=True))
                except (GraderError, _DiedError) as error:
                    again = job.tried_again()
                    waiting.extend(again)
                    verdicts.update((at, Verdict(None, error=str(error))) for at in job.places if not again)
                idle.append(number)
        return [[verdicts[place] for place in group] for group in places]

    def _ready(self, busy: Iterable[int]) -> list[int]:
        """The processes that have answered or are late; waits for the first."""
        of = {self.processes[number].connection: number for number in busy}
        nearest = min(self.processes[number].deadline for number in busy)
        answered = wait(list(of), timeout=max(0.0, nearest - monotonic()))
        now = monotonic()
        return [n for connection, n in of.items() if connection in answered or self.processes[n].deadline <= now]

    def _ask(self, *request: Any) -> Any:
        self.processes[0].begin(*request)
        try:
            return self._answer(0)
        except _DiedError as error:
            raise GraderError(f"{self.source} was asked for {request[0]}: {error}") from error

    def _answer(self, number: int) -> Any:
        """What a process answers; another takes the place of one that died."""
        try:
            return self.processes[number].answer()
        except _DiedError:
            self.processes[number] = _Process(self.source, self.limits)
            raise

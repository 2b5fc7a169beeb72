"""Graders in processes of their own, with limits of time and memory. An error is an error, never a reward of 0.

Nouns: Graders, the processes that hold a task; a Verdict, what became of one reply; Environments, one for each episode
of a batch, which live in these processes; an Answer, what one said. A call gets the replies to one prompt; where that
fails, each of them alone, and once more: only what fails again is an error. An environment whose process ended is begun
anew elsewhere, and its calls are made again. Knows no model.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from multiprocessing.connection import wait
from time import monotonic
from types import TracebackType
from typing import Any, Self

from gorae.tasks.environment import Scene
from gorae.tasks.process import LIMITS, DiedError, GraderError, Limits, Process
from gorae.tasks.task import Reply, Row
from gorae.text import Message, Tool


@dataclass(frozen=True)
class Verdict:
    """The reward of a reply and what each function gave; None where nothing applied, or something failed: `error`."""

    reward: float | None
    parts: Mapping[str, float | None] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Answer:
    """What an environment said to the calls of a turn, one by one, or in the beginning; or how it failed."""

    texts: Sequence[str] = ()
    error: str | None = None


@dataclass(frozen=True)
class _Failure:
    """In place of what was asked for."""

    told: str


@dataclass(frozen=True)
class _Job:
    """What is asked about items of a row (replies, scenes), and which they are of all; `home` is a process's number."""

    name: str
    row: Row
    items: Sequence[Any]
    places: Sequence[int]
    home: int | None
    is_last_try: bool = False

    def tried_again(self) -> list["_Job"]:
        """Each item alone, and an item alone once more."""
        if len(self.items) == 1:
            return [] if self.is_last_try else [replace(self, is_last_try=True)]
        pairs = zip(self.items, self.places, strict=True)
        return [replace(self, items=[item], places=[place]) for item, place in pairs]


class Graders:
    """A task in `num_processes` processes; `limits.seconds` are those for all replies to a prompt together.

    Raises GraderError if the task can not be loaded.
    """

    def __init__(self, source: str, *, num_processes: int = 1, limits: Limits = LIMITS) -> None:
        self.source, self.limits = source, limits
        self.processes: list[Process] = []
        self.groups = count()
        try:
            for _ in range(num_processes):
                self.processes.append(Process(source, limits))
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

    def oracle(self, rows: Sequence[Row]) -> list[Any]:
        """The right content of a reply to each row, or behind calls a list of them and of that content."""
        return self._ask("oracle", rows)

    def tools(self) -> list[Tool] | None:
        """What a model may call; None if the task has no environment."""
        return self._ask("tools")

    def grade(self, rows: Sequence[Row], groups: Sequence[Sequence[Reply]]) -> list[list[Verdict]]:
        """A verdict on each reply of each group, the replies to one row."""
        whole = [[reply for reply in group if reply.error is None] for group in groups]
        homes = [next((reply.scene.number[0] for reply in group if reply.scene), None) for group in whole]
        found = [iter(group) for group in self.work("reward", rows, whole, homes)]
        return [
            [Verdict(None, error=reply.error) if reply.error else _verdict(next(given)) for reply in group]
            for group, given in zip(groups, found, strict=True)
        ]

    def work(
        self, name: str, rows: Sequence[Row], groups: Sequence[Sequence[Any]], homes: Sequence[int | None]
    ) -> list[list[Any]]:
        """What the processes answer about each item of each group, or a `_Failure`."""
        numbers = count()
        places = [[next(numbers) for _ in group] for group in groups]
        jobs = zip(rows, groups, places, homes, strict=True)
        waiting = deque(
            _Job(name, row, group, at, None if home is None else home % len(self.processes))
            for row, group, at, home in jobs
            if group
        )
        found: dict[int, Any] = {}
        idle = list(range(len(self.processes)))
        busy: dict[int, _Job] = {}
        while waiting or busy:
            for job in [waiting.popleft() for _ in range(len(waiting))]:
                number = next((one for one in idle if job.home in (None, one)), None)
                if number is None:
                    waiting.append(job)
                    continue
                idle.remove(number)
                busy[number] = job
                self.processes[number].begin(job.name, [job.row] * len(job.items), job.items)
            for number in self._ready(busy):
                job = busy.pop(number)
                try:
                    found.update(zip(job.places, self._answer(number), strict=True))
                except (GraderError, DiedError) as error:
                    again = job.tried_again()
                    waiting.extend(again)
                    found.update((at, _Failure(str(error))) for at in job.places if not again)
                idle.append(number)
        return [[found[place] for place in group] for group in places]

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
        except DiedError as error:
            raise GraderError(f"{self.source} was asked for {request[0]}: {error}") from error

    def _answer(self, number: int) -> Any:
        """What a process answers; another takes the place of one that died."""
        try:
            return self.processes[number].answer()
        except DiedError:
            self.processes[number] = Process(self.source, self.limits)
            raise


class Environments:
    """An environment for each of `num_samples` episodes about each row; number n is about row n // num_samples."""

    def __init__(self, graders: Graders, rows: Sequence[Row], num_samples: int) -> None:
        self.graders, self.rows, self.num_samples = graders, rows, num_samples
        self.groups = [next(graders.groups) for _ in rows]
        self.said: dict[int, list[str]] = {}

    def scene(self, number: int, turns: Sequence[Message]) -> Scene:
        group, sample = divmod(number, self.num_samples)
        return Scene((self.groups[group], sample), turns, self.said.get(number, ()))

    def act(self, asked: Sequence[tuple[int, Sequence[Message]]]) -> list[Answer]:
        """What environments say next, by their numbers: to episodes without turns the beginning, then to the calls."""
        scenes = [self.scene(number, turns) for number, turns in asked]
        rows = [self.rows[number // self.num_samples] for number, _ in asked]
        homes = [scene.number[0] for scene in scenes]
        found = self.graders.work("act", rows, [[scene] for scene in scenes], homes)
        answers = []
        for (number, _), scene, (said,) in zip(asked, scenes, found, strict=True):
            if isinstance(said, _Failure):
                answers.append(Answer(error=said.told))
            else:
                self.said[number] = said
                answers.append(Answer(said[len(scene.said) :]))
        return answers


def _verdict(given: Any) -> Verdict:
    return Verdict(None, error=given.told) if isinstance(given, _Failure) else Verdict(*given)

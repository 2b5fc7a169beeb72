"""A process that holds a task and does what it is told through a socket: draw rows, play episodes, reward replies.

Started by process.py as `python -m gorae.tasks.worker SOURCE SOCKET BYTES`. What the task prints goes to stderr.
"""

import ctypes
import resource
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gorae.tasks.environment import Play, Scene
from gorae.tasks.read import load_task
from gorae.tasks.task import Reply, Row, Task, identity_of
from gorae.text import Tool, ToolCall

_PR_SET_PDEATHSIG = 1
_MOST_REFUSED = 10_000


class Desk:
    """A task, how far its rows have been drawn, and the environments of episodes that are being played."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.plays: dict[tuple[int, int], Play] = {}
        self.left: tuple[tuple[int, frozenset[str], int], Iterator[Row]] | None = None

    def rows(self, seed: int, first: int, count: int, without: frozenset[str]) -> list[Row]:
        """Rows `first` to `first + count` of those drawn from a seed that are not among these identities."""
        left, self.left = self.left, None  # what raises has no more rows to give
        if left is not None and left[0] == (seed, without, first):
            drawn = left[1]
        else:
            drawn = islice(self._allowed(seed, without), first, None)
        rows = list(islice(drawn, count))
        self.left = (seed, without, first + count), drawn
        return rows

    def _allowed(self, seed: int, without: frozenset[str]) -> Iterator[Row]:
        refused = 0
        for row in self.task.draw(seed):
            if identity_of(row) not in without:
                refused = 0
                yield row
            elif (refused := refused + 1) == _MOST_REFUSED:
                raise ValueError(
                    f"{refused} rows of {self.task.name} in a row are among the {len(without)} kept to measure on; "
                    "write rows with more different prompts, or lower evaluate.items"
                )

    def num_rows(self) -> int | None:
        """How many there are; None if they have no end."""
        return None if callable(self.task.rows) else len(self.task.rows)

    def oracle(self, rows: Sequence[Row]) -> list[Any]:
        return [self.task.oracle(row) for row in rows]

    def tools(self) -> list[Tool] | None:
        """What may be called; None where there is no environment."""
        return None if self.task.environment_factory is None else list(self.task.tools)

    def act(self, rows: Sequence[Row], scenes: Sequence[Scene]) -> list[list[str]]:
        """What the environments of scenes have said, now that all calls of their turns are made."""
        plays = [self._play(row, scene, scene.calls) for row, scene in zip(rows, scenes, strict=True)]
        self.plays.update(zip((scene.number for scene in scenes), plays, strict=True))
        return [play.said for play in plays]

    def _play(self, row: Row, scene: Scene, calls: Sequence[ToolCall]) -> Play:
        """The environment after these calls; where this process has none it is begun anew. What raises is let go."""
        play = self.plays.pop(scene.number, None)
        if play is None:
            assert self.task.environment_factory is not None, "a task without environments has no scenes"
            play = Play(self.task.environment_factory(), row)
        play.go_on(calls, scene.said)
        return play

    def reward(self, rows: Sequence[Row], replies: Sequence[Reply]) -> list[tuple[float | None, dict[str, Any]]]:
        """The total of each reply, and what each function gave; the episodes they end are over."""
        scenes = [(row, reply.scene) for row, reply in zip(rows, replies, strict=True) if reply.scene is not None]
        environments = [self._play(row, scene, scene.answered).environment for row, scene in scenes]
        return [(self.task.total(each), each) for each in self.task.reward(rows, replies, environments)]


def bind(most_bytes: int) -> None:
    """Let an allocation beyond so many bytes fail, and end with the process that asked, however that one ends."""
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def told(error: BaseException) -> str:
    """An error in a line, and where in the task it was raised."""
    ours = str(Path(__file__).parent)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    place = f", {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def main(source: str, socket: str, most_bytes: str) -> None:
    with Connection(int(socket)) as connection:
        bind(int(most_bytes))
        try:
            desk = Desk(load_task(source))
        except BaseException as error:  # whatever a stranger's file raises, sys.exit included
            connection.send((False, str(error) if isinstance(error, ValueError) else told(error)))
            return
        connection.send((True, None))
        while True:
            try:
                name, *given = connection.recv()
            except EOFError:
                return
            try:
                connection.send((True, getattr(desk, name)(*given)))
            except BaseException as error:  # what can not be sent is refused before a byte of it is
                connection.send((False, told(error)))


if __name__ == "__main__":
    main(*sys.argv[1:])

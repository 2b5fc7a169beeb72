"""A process that holds a task, as seen from outside: it is asked, answers in time, or is ended.

Nouns: its Limits; a GraderError, what the task did wrong; a DiedError, that it is gone. Knows no rewards.
"""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any


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


LIMITS = Limits()


class GraderError(ValueError):
    """A task failed to do what it must: to load, to draw rows, to say what is right."""


class DiedError(Exception):
    """A process ended, or was ended, before it answered."""


class Process:
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
        except (GraderError, DiedError) as error:
            self.end()
            raise GraderError(f"{source} could not be loaded: {error}") from error

    def begin(self, *request: Any) -> None:
        self.deadline = monotonic() + self.limits.seconds
        with suppress(ConnectionError):  # where the process is gone, `answer` finds so
            self.connection.send(request)

    def answer(self) -> Any:
        """What it answers in time. Raises GraderError for what the task raised, `DiedError` if it is gone."""
        if not self.connection.poll(max(0.0, self.deadline - monotonic())):
            self.end()
            raise DiedError("it took too long and was ended")
        try:
            is_well, answer = self.connection.recv()
        except (EOFError, ConnectionError):
            self.end()
            raise DiedError(f"its process ended with status {self.process.returncode}") from None
        if not is_well:
            raise GraderError(answer)
        return answer

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.connection.close()

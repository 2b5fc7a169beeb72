"""Run a stranger's Python program in a process that can reach nothing, and say how it ended.

Nouns: RunLimits, what a run may take; Protections, the layers that hold it, found by trying them once; an Outcome, what
it printed and why it ended. The program is alone in its process: no network, no other process made, seen or signalled,
no file but the standard library and a small folder of its own, which is memory and ends with it. Linux only. A run
costs about 20 ms on a 2-core EPYC, of which a bare interpreter takes 9. Knows nothing of tests and of right.
"""

import marshal
import math
import os
import platform
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal

from gorae.observe import log
from gorae.tasks.sandbox.system_calls import MACHINES, call_filter

Reason = Literal["ended", "time", "memory", "output", "killed"]

_LAYERS = {
    "namespaces": "a root and a network of its own",
    "landlock": "Landlock",
    "seccomp": "a filter of system calls",
    "limits": "limits of time, memory and files",
}
_START_SECONDS = 60  # an interpreter starts in a fraction of one, unless the machine is very busy
# A script of the same source and input ends the same. One arena: each takes addresses, which are what is limited.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "MALLOC_ARENA_MAX": "1", "HOME": "/tmp", "LANG": "C.UTF-8"}


class SandboxError(OSError):
    """The sandbox itself failed, or this machine has none: nothing is known about the program."""


@dataclass(frozen=True)
class RunLimits:
    """What a run may take. A program that waits is ended after `wall_seconds`, counted from its first line."""

    cpu_seconds: int = 4
    wall_seconds: float = 8.0
    memory_bytes: int = 512 * 2**20  # of addresses; the interpreter itself takes some 30 MB
    output_bytes: int = 2**20  # of stdout and of stderr, each
    folder_bytes: int = 16 * 2**20
    threads: int = 64

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name}={value} is no limit; it must be above 0 and finite")


@dataclass(frozen=True)
class Protections:
    """The layers in force here, and a sentence on each that is not."""

    layers: tuple[str, ...]
    missing: tuple[str, ...] = ()

    @property
    def enough(self) -> bool:
        """System calls are filtered, and files are hidden by one layer at least."""
        return {"seccomp", "limits"} <= set(self.layers) and bool({"namespaces", "landlock"} & set(self.layers))

    def __str__(self) -> str:
        held = ", ".join(_LAYERS[layer] for layer in self.layers) or "nothing"
        return "; ".join([held, *self.missing])


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `exit_code` is as subprocess has it: below 0 the signal that ended it."""

    stdout: str
    stderr: str
    exit_code: int
    reason: Reason

    @property
    def ended_well(self) -> bool:
        return self.reason == "ended" and self.exit_code == 0


def run_python(
    source: str, *, stdin: str = "", limits: RunLimits | None = None, allow_unprotected: bool = False
) -> Outcome:
    """Run `source` as a script in the sandbox. Threads may run many at once.

    Raises SandboxError where the layers this machine has are not enough, unless `allow_unprotected` takes those there
    are, and where the sandbox fails. What the program does wrong is in the Outcome and never raises.
    """
    layers = usable_protections(allow_unprotected=allow_unprotected).layers
    return start(source, layers, stdin=stdin, limits=limits).wait()


@cache
def protections() -> Protections:
    """The layers this machine has, found by entering them in a child."""
    here = f"{platform.system()} on {platform.machine()}"
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        return Protections((), (f"the sandbox is for Linux on {' or '.join(MACHINES)}, and this is {here}",))
    layers, missing = list(_LAYERS), []
    while True:
        try:
            start("", layers).wait()
            return Protections(tuple(layers), tuple(missing))
        except _LayerRefusedError as refusal:
            layers.remove(refusal.layer)
            missing.append(f"without {_LAYERS[refusal.layer]}: {refusal.reason}")


def usable_protections(*, allow_unprotected: bool = False) -> Protections:
    """What `protections()` finds. Raises SandboxError where it is not enough and that is not allowed."""
    found = protections()
    if found.enough:
        return found
    if not allow_unprotected:
        raise SandboxError(
            f"this machine can not hold a stranger's program; in force would be {found}. Use Linux 6.2 or newer with "
            "Landlock, or one that allows user namespaces; or pass allow_unprotected=True where the machine itself "
            "holds nothing that matters"
        )
    _say_once(f"strangers' programs run without enough protection; in force: {found}")
    return found


@cache
def _say_once(message: str) -> None:
    log(message)


class _LayerRefusedError(SandboxError):
    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(f"the sandbox can not have {_LAYERS[layer]}: {reason}")
        self.layer, self.reason = layer, reason


@dataclass(frozen=True)
class Running:
    """A program under way; `wait` for it once."""

    process: subprocess.Popen[bytes]
    report: IO[bytes]
    limits: RunLimits

    def wait(self) -> Outcome:
        """Listen until it ends or has taken too much; when this returns or raises, nothing of it is left."""
        printed: dict[Any, bytearray] = {pipe: bytearray() for pipe in (self.report, *self._outputs)}
        try:
            reason = self._listen(printed)
        finally:
            with suppress(ProcessLookupError):  # where no layer forbids it children, these too
                os.killpg(self.process.pid, signal.SIGKILL)
            exit_code = self.process.wait()
            for pipe in printed:
                pipe.close()
        stdout, stderr = (bytes(printed[pipe]).decode(errors="replace") for pipe in self._outputs)
        if not printed[self.report]:
            raise SandboxError(f"the sandbox ended before the program began: {stderr.strip() or exit_code}")
        if printed[self.report] != b"begun":
            layer, _, reason = printed[self.report].decode().partition(": ")
            raise _LayerRefusedError(layer, reason)
        if reason == "ended" and exit_code < 0:
            reason = "time" if exit_code == -signal.SIGXCPU else "killed"
        elif reason == "ended" and exit_code and stderr.rstrip().rpartition("\n")[2].startswith("MemoryError"):
            reason = "memory"
        return Outcome(stdout, stderr, exit_code, reason)

    @property
    def _outputs(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        return self.process.stdout, self.process.stderr

    def _listen(self, printed: dict[Any, bytearray]) -> Reason:
        deadline = time.monotonic() + _START_SECONDS
        with selectors.DefaultSelector() as selector:
            for pipe in printed:
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                events = selector.select(deadline - time.monotonic())
                if not events and time.monotonic() >= deadline:
                    if self.report in selector.get_map():
                        raise SandboxError(f"the sandbox did not start within {_START_SECONDS} seconds")
                    return "time"
                for key, _ in events:
                    chunk = os.read(key.fd, 2**16)
                    printed[key.fileobj] += chunk
                    if key.fileobj is not self.report and len(printed[key.fileobj]) > self.limits.output_bytes:
                        del printed[key.fileobj][self.limits.output_bytes :]
                        return "output"
                    if not chunk:
                        selector.unregister(key.fileobj)
                        if key.fileobj is self.report:  # closed when all doors are, and the program begins
                            deadline = time.monotonic() + self.limits.wall_seconds
        try:
            self.process.wait(deadline - time.monotonic())
        except subprocess.TimeoutExpired:
            return "time"
        return "ended"


def start(
    source: str,
    layers: Sequence[str],
    *,
    stdin: str = "",
    limits: RunLimits | None = None,
    pass_fds: Sequence[int] = (),
) -> Running:
    """Start a program behind these layers; the open files `pass_fds` go with it."""
    limits = limits or RunLimits()
    order = {
        "layers": list(layers),
        "source": source,
        "parent": os.getpid(),
        "folder_bytes": limits.folder_bytes,
        "filter": call_filter(platform.machine()).hex() if "seccomp" in layers else "",
        "limits": _resource_limits(limits, own_user="namespaces" in layers),
    }
    order_fd, stdin_fd = _readable(marshal.dumps(order)), _readable(stdin.encode("utf-8", "surrogatepass"))
    report, report_fd = os.pipe()
    inside = Path(__file__).with_name("inside.py")
    try:
        process = subprocess.Popen(
            [sys.executable, "-SsPB", str(inside), str(order_fd), str(report_fd)],
            stdin=stdin_fd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(order_fd, report_fd, *pass_fds),
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
    except BaseException:
        os.close(report)
        raise
    finally:
        for descriptor in (order_fd, stdin_fd, report_fd):
            os.close(descriptor)
    return Running(process, open(report, "rb"), limits)


def _resource_limits(limits: RunLimits, *, own_user: bool) -> dict[str, tuple[int, int]]:
    """Soft and hard bounds by name. Threads are counted over all processes of a user, so only where it has its own."""
    seconds = math.ceil(limits.cpu_seconds)
    bounds = {
        "CPU": (seconds, seconds + 1),
        "AS": (limits.memory_bytes, limits.memory_bytes),
        "FSIZE": (limits.folder_bytes, limits.folder_bytes),
        "NOFILE": (64, 64),
        "CORE": (0, 0),
    }
    return {**bounds, "NPROC": (limits.threads, limits.threads)} if own_user else bounds


def _readable(content: bytes) -> int:
    """A descriptor from which the content can be read, of a file that has no name any more."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return os.open(file.name, os.O_RDONLY)

"""Run a command and tell the most memory it had: what only it could hold, and with the pages of files counted too.

    python benchmarks/peak_memory.py gorae convert models/v2-lite models/v2-lite-fp8 --to fp8

Pages of mapped files can be dropped and read again, so a process larger than memory has to fit with its anonymous pages
alone. Linux keeps no peak of those: they are read every few milliseconds. Threads count, child processes do not.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

SECONDS_BETWEEN_LOOKS = 0.005


class Peak(NamedTuple):
    """The most bytes a process had at once: `anonymous` is without the pages of files, `resident` with them."""

    anonymous_bytes: int
    resident_bytes: int
    seconds: float


def main() -> None:
    command = sys.argv[1:]
    if not command:
        raise SystemExit(__doc__)
    peak = peak_of(command)
    print(
        f"peak memory: {peak.anonymous_bytes / 1e9:.2f} GB anonymous, {peak.resident_bytes / 1e9:.2f} GB with pages of "
        f"files; {peak.seconds:.0f} seconds",
        file=sys.stderr,
    )


def peak_of(command: list[str]) -> Peak:
    """Run a command to its end and measure it. Raises CalledProcessError if it fails."""
    started = time.monotonic()
    anonymous = 0
    with subprocess.Popen(command) as process:
        status = Path(f"/proc/{process.pid}/status")
        while True:
            ended, code, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            anonymous = max(anonymous, _anonymous_bytes(status.read_text()))
            time.sleep(SECONDS_BETWEEN_LOOKS)
        process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Peak(anonymous, usage.ru_maxrss * 1024, time.monotonic() - started)


def _anonymous_bytes(status: str) -> int:
    """A process that has ended and was not waited for yet has no such line."""
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")), 0)


if __name__ == "__main__":
    main()

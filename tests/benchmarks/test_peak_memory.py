import runpy
import subprocess
import sys
from pathlib import Path

import pytest

peak_of = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/peak_memory.py"))["peak_of"]


def test_pages_of_files_are_told_apart_from_memory_of_its_own(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.truncate(200_000_000)
    program = """
import mmap, sys, time
with open(sys.argv[1], "rb") as file:
    pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    sum(pages[place] for place in range(0, len(pages), mmap.PAGESIZE))
    own = b"x" * 100_000_000
    time.sleep(0.1)  # a look is taken every few milliseconds
"""
    peak = peak_of([sys.executable, "-c", program, str(tmp_path / "file")])
    assert 100_000_000 < peak.anonymous_bytes < 150_000_000, "more than 50 MB for an empty Python?"
    assert peak.resident_bytes > 300_000_000
    assert peak.seconds > 0.1


def test_a_command_that_fails_is_an_error():
    with pytest.raises(subprocess.CalledProcessError):
        peak_of([sys.executable, "-c", "raise SystemExit(3)"])

import json
from pathlib import Path

import pytest

from gorae.cli import bench, main
from gorae.config import Parameters
from gorae.observe import HeldMemory
from gorae.recipes import Peaks, Speed, SpeedReport

PEAKS = Peaks("a processor", 2, "avx2", 50e9, 200e9, 400e9)
SPEEDS = [
    Speed("decode", 12.0, 11.0, 13.0, 1.5e9, 2e6, 8e8, 0.36, 0.05, "int8"),
    Speed("prefill 512", 90.0, 89.0, 91.0, 3e6, 5e5, 8e8, 0.1, 0.36, "int8"),
]


@pytest.fixture
def asked(monkeypatch):
    noted = {}

    def pretend(path, *, tell, **options):
        noted.update(options, path=path)
        for found in (PEAKS, *SPEEDS):
            tell(found)
        told = {"decode at 2048": "takes 2073 tokens"}
        return SpeedReport(str(path), "fast", None, Parameters(9, 5), PEAKS, 1.5, SPEEDS, told, HeldMemory(1000, 3000))

    monkeypatch.setattr(bench, "measure_speed", pretend)
    monkeypatch.setattr(bench, "set_up_process", lambda threads: noted.update(threads=threads))
    return noted


def test_bench_prints_the_machine_the_lines_and_what_was_left_out(asked, capsys):
    assert main(["bench", "models/mine", "--mode", "fast", "--cache-type", "int8", "--threads", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a processor, 2 threads, kernels avx2: reads 50.0 GB/s, float32 200 GFLOP/s, int8 400 GOP/s"
    assert lines[2].split() == ["decode", "12.0", "1.50", "GB", "2.00", "MB", "0.8", "36%", "memory"]
    assert lines[3].endswith("36% int8")
    assert lines[4].split() == ["decode", "at", "2048", "takes", "2073", "tokens"]
    assert "1.00 kB anonymous, 3.00 kB" in lines[-1]
    wanted = {"mode": "fast", "cache_type": "int8", "only": [], "turns": 3}
    assert asked == {"path": Path("models/mine"), "threads": 2} | wanted


def test_bench_writes_its_figures(asked, tmp_path):
    assert main(["bench", "models/mine", "--only", "decode", "--json", str(tmp_path / "bench.json")]) == 0
    kept = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert kept["speeds"][0]["tokens_per_second"] == 12.0
    assert kept["memory"] == [1000, 3000]
    assert kept["peaks"]["threads"] == 2
    assert asked["only"] == ["decode"]


def test_no_turn_is_too_few(capsys):
    assert main(["bench", "models/mine", "--turns", "0"]) == 2
    assert "--turns 0 must be at least 1" in capsys.readouterr().err

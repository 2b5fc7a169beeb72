import json
import runpy
from pathlib import Path

import pytest
import torch

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/kernels.py"))


@pytest.mark.parametrize("operation", BENCHMARK["OPERATIONS"])
def test_what_is_compared_computes_the_same(operation, monkeypatch):
    monkeypatch.setitem(BENCHMARK["main"].__globals__, "NARROW_BYTES", 0)
    case = next(BENCHMARK["OPERATIONS"][operation]())
    for ours, theirs in zip(case.ours(), case.theirs(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_run_prints_and_keeps_its_ratios(tmp_path, capsys, monkeypatch):
    run = BENCHMARK["main"]
    monkeypatch.setitem(run.__globals__, "LEAST_SECONDS", 0.0)
    monkeypatch.setitem(run.__globals__, "COLD_BYTES", 4000)
    run(["--only", "elementwise", "--pairs", "3", "--json", str(tmp_path / "figures.json")])
    kept = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert "kernels: " in capsys.readouterr().out
    assert len(kept) == 6
    assert all(0 < one["lowest"] <= one["ratio"] <= one["highest"] for one in kept)

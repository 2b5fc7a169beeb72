import json
from pathlib import Path

import pytest

from gorae.cli import main, parity
from gorae.posttrain import Comparison, Difference, measure_mismatch
from gorae.recipes import ParityReport

EXACT = measure_mismatch([[-1.0, -2.0]], [[-1.0, -2.0]])
FAR = measure_mismatch([[-1.0, -2.0, -1.0]] * 10, [[-1.1, -2.3, -4.0]] * 9 + [[-1.0, -0.5, -1.0]])
CLEAN = [Difference("layer 0 attention", 0.0), Difference("head", 0.0)]


@pytest.fixture
def asked(monkeypatch):
    """Options of the report to be returned → what was asked."""
    noted = {}

    def asked(mismatch, layers, obstacle=None):
        def pretend(sampler, trainer, **options):
            noted.update(options, sides=(sampler, trainer))
            return ParityReport(sampler, trainer, 8, 192, mismatch, layers, obstacle)

        monkeypatch.setattr(parity, "run_parity", pretend)
        monkeypatch.setattr(parity, "set_up_process", lambda threads: noted.update(threads=threads))
        return noted

    return asked


def test_an_exact_pair_is_told_to_need_nothing_and_the_status_is_0(asked, capsys):
    noted = asked(EXACT, Comparison(CLEAN, 0, 600))
    command = "parity a:fast http://h/v1 --tokens 9 --model whale --prompts p --threads 2 --max-kl 0"
    assert main(command.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a:fast replies, http://h/v1 scores: 1 replies to 8 prompts, 2 tokens"
    assert lines[6].split() == ["routing", "0", "of", "600", "decisions", "take", "other", "experts"]
    assert lines[-3].endswith("none is needed: the ratio is exactly 1 everywhere")
    assert lines[-2].endswith("nowhere in the layers, which agree to the bit")
    assert lines[-1] == "mismatch 0 is within --max-kl 0"
    assert noted == {
        "sides": ("a:fast", "http://h/v1"),
        "prompts": Path("p"),
        "num_tokens": 9,
        "served_model": "whale",
        "threads": 2,
    }


def test_a_larger_mismatch_has_the_status_1_and_its_places_are_named(asked, capsys, tmp_path):
    parts = [*CLEAN, *(Difference(f"layer {layer} router", 0.25, 0.5) for layer in range(10)), *CLEAN * 9]
    asked(FAR, Comparison(parts, 3, 600))
    assert main(["parity", "a", "b", "--json", str(tmp_path / "parity.json")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith(("TIS", "MIS", "none", "GRPO"))] == [
        *("none", "GRPO's", "TIS,", "TIS,", "MIS,", "MIS,")
    ]
    assert f"correction        {FAR.best} helps most" in lines
    assert "where             first in layer 0 router, by 0.25 of its size, 50.0% of tokens elsewhere" in lines
    assert lines[-2].endswith("and in 2 parts more")
    assert "is larger than --max-kl 0.001" in lines[-1]
    kept = json.loads((tmp_path / "parity.json").read_text(encoding="utf-8"))
    assert kept["mismatch"]["kl"] == FAR.kl
    assert kept["best"] == FAR.best
    assert kept["outstanding"][0] == "layer 0 router"
    assert kept["layers"]["flipped"] == 3


def test_what_is_not_known_is_said(asked, capsys):
    asked(FAR, None, "http://h/v1 shows no layers")
    main(["parity", "a", "http://h/v1"])
    assert "not known: http://h/v1 shows no layers" in capsys.readouterr().out
    asked(FAR, Comparison(CLEAN, 0, 0))
    main(["parity", "a", "b"])
    out = capsys.readouterr().out
    assert "which agree to the bit: it is how the replies were made" in out
    assert "decisions" not in out
    asked(FAR, Comparison([Difference("embedding", 1e-7), Difference("head", 2e-7)], 0, 0))
    main(["parity", "a", "b"])
    assert "no part stands out; head differs most, by 2e-07 of its size" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--tokens", "0"], ["--max-kl", "-1"], ["--max-kl", "nan"]])
def test_impossible_options_are_refused(options, capsys):
    assert main(["parity", "a", "b", *options]) == 2
    assert "must be at least 1 and --max-kl" in capsys.readouterr().err

import json
from importlib.util import find_spec

import numpy as np
import pytest
import serve
from worker import Worker

from gorae.engine import LINES

PEER = """
import sys

sys.path.append(BENCHMARKS)
from answer import answer


class Peer:
    def __init__(self, path, *, start):
        self.path, self.total = path, start

    def add(self, number):
        self.total += number
        return [self.path, self.total]


answer(Peer)
"""


def test_a_worker_answers_one_question_after_the_other(tmp_path):
    (tmp_path / "peer.py").write_text(PEER.replace("BENCHMARKS", repr(serve.__file__.rpartition("/")[0])))
    with Worker(str(tmp_path / "peer.py"), tmp_path / "weights", start=3) as worker:
        assert worker.ask("add", number=4) == [str(tmp_path / "weights"), 7]
        assert worker.ask("add", number=1) == [str(tmp_path / "weights"), 8]
        assert worker.load_seconds >= 0
        assert worker.memory().anonymous > 0
    assert worker.process.returncode is not None


def test_llama_cpp_is_given_the_settings_it_was_fastest_with(monkeypatch, tmp_path):
    speeds = {"flash": 2.0, "repack": 3.0, 128: 0.5, 512: 1.0, 2048: 1.5}
    tried = []

    class Peer:
        def __init__(self, _program, _path, *, repack, **_threads):
            self.repack = repack

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def ask(self, question, **options):
            if question == "begin":
                self.options = options
            if question != "turn":
                return None
            tuning = {"micro_batch": 512} | self.options
            tried.append((self.options["line"], self.repack, tuning.get("flash"), tuning["micro_batch"]))
            speed = speeds[tuning["micro_batch"]] * (speeds["repack"] if self.repack else 1)
            return 1 / (speed * (speeds["flash"] if tuning.get("flash") else 1))

    monkeypatch.setattr(serve, "Worker", Peer)
    lines = [LINES["prefill 512"], LINES["prefill 4096"], LINES["16 at once"]]
    found = serve.best_tunings(tmp_path, lines, threads=1, vocab_size=9)
    assert found["prefill 512"] == {"flash": True, "micro_batch": 512, "repack": True}, "all it reads is one batch"
    assert found["prefill 4096"] == {"flash": True, "micro_batch": 2048, "repack": True}
    assert found["16 at once"] == {"flash": True, "micro_batch": 512, "repack": True}
    assert {(line, flash) for line, _, flash, _ in tried} >= {(line.name, on) for line in lines for on in (False, True)}
    assert {size for line, _, _, size in tried if line == "prefill 4096"} == {128, 512, 2048}


def test_the_divergence_of_equal_rows_is_zero_and_of_others_what_the_formula_says():
    exact = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], dtype=np.float32))
    assert serve.mean_kl(exact, exact + 3) == pytest.approx(0, abs=1e-6)  # a softmax knows no constant
    other = np.log(np.array([[0.25, 0.25, 0.5], [0.1, 0.1, 0.8]], dtype=np.float32))
    expected = 0.5 * np.log(2) + 0.25 * np.log(0.5)
    assert serve.mean_kl(exact, other) == pytest.approx(expected / 2, rel=1e-5)


def test_weights_are_drawn_and_converted_once_and_a_large_source_does_not_stay(tmp_path, monkeypatch):
    made = []

    def pretend(source, target, to):
        assert (source / "config.json").is_file()
        made.append((target.name, to))
        target.mkdir()

    monkeypatch.setattr(serve, "convert", pretend)
    monkeypatch.setattr(serve, "LARGE", {"tiny"})
    (tmp_path / "tiny").mkdir()  # as a kill leaves it
    for _ in range(2):
        weights = serve.prepare(tmp_path, "tiny", serve.FORMATS["8"])
        assert not weights.source.exists()
        assert weights.theirs.is_file()
    assert made == [("tiny-int8", "int8")]
    assert serve.warm(weights.theirs) == weights.theirs.stat().st_size
    for _ in range(2):
        weights = serve.prepare(tmp_path, "tiny", serve.FORMATS["exact"])
        assert weights.ours == weights.source
        assert weights.source.is_dir()
    assert len(made) == 1


@pytest.mark.slow
def test_both_engines_are_timed_on_a_small_shape(tmp_path, capsys):
    if find_spec("llama_cpp") is None:
        pytest.fail("llama.cpp is not installed; `make test-slow` compiles it and runs this test", pytrace=False)
    words = ["--shape", "tiny", "--bits", "exact", "--pairs", "2", "--threads", "1", "--quality"]
    lines = ["prefill 512", "decode", "decode at 2048", "8 at once"]
    only = [word for line in lines for word in ("--only", line)]
    serve.main([*words, *only, "--folder", str(tmp_path), "--json", str(tmp_path / "figures.json")])
    kept = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert {line["line"] for line in kept["lines"]} == set(lines)
    assert all(0 < line["low"] <= line["ratio"] <= line["high"] for line in kept["lines"])
    assert kept["kl"]["gorae"] == 0, "the drawn weights say what they say"
    assert 0 < kept["kl"]["llama"] < 1e-4
    assert "KL to float32" in capsys.readouterr().out

import json
from importlib.util import find_spec

import pytest
import rl
import torch
from grpo_step import Work, prompts_of, reward_of

from gorae.checkpoint import load

TINY = ["--shape", "tiny", "--prompts", "2", "--samples", "4", "--tokens", "6", "--threads", "1"]


def turn(generation: float, scoring: float, training: float) -> dict[str, float]:
    return {"generation": generation, "scoring": scoring, "training": training}


def test_ratios_are_of_pairs_and_seconds_medians():
    ours, theirs = turn(1.0, 0.0625, 3.0), turn(4.0, 0.125, 6.0)
    slow = turn(2.0, 0.0625, 3.0)
    told = rl.compare([(ours, theirs), (slow, theirs), (ours, theirs)])
    assert told["generation"] == {"gorae": 1.0, "trl": 4.0, "ratio": 4.0, "low": 3.0, "high": 4.0}
    assert told["training"]["ratio"] == 2.0
    assert told["step"]["gorae"] == 4.0625
    assert told["step"]["ratio"] == 10.125 / 4.0625


def test_sides_that_read_or_write_unequally_are_no_comparison():
    work = {"prompt_tokens": 10, "reply_tokens": 12}
    rl.require_equal_work(work, work)
    with pytest.raises(SystemExit, match=r"reply_tokens: 12 of ours are not 11 of TRL's"):
        rl.require_equal_work(work, work | {"reply_tokens": 11})


def test_prompts_and_rewards_follow_from_their_numbers():
    work = Work(prompts=3, samples=4, tokens=5)
    assert work.replies == 12
    assert prompts_of(1, work) == prompts_of(1, work)
    assert len(set(prompts_of(1, work) + prompts_of(2, work))) == 6
    assert 0 <= reward_of([1, 2]) != reward_of([2, 1]) <= 1


def test_weights_are_apart_in_units_of_the_step():
    start, ours, theirs = ({"a": torch.tensor(values)} for values in ([0.0, 0.0], [3.0, 4.5], [3.0, 4.0]))
    assert rl.apart(start, ours, theirs) == pytest.approx(0.1)
    assert rl.apart(start, theirs, theirs) == 0


@pytest.mark.filterwarnings("ignore")  # transformers' own
def test_the_model_is_one_that_both_sides_load(tmp_path):
    rl.make_model(tmp_path, "tiny")
    model = load(tmp_path, weights="float32")
    assert model.tokenizer is not None
    assert model.tokenizer.vocab_size == model.config.vocab_size == 512
    assert rl.weights_in(tmp_path).keys() >= {
        "model.embed_tokens.weight",
        "model.layers.1.mlp.experts.7.up_proj.weight",
    }


@pytest.mark.filterwarnings("ignore")
def test_our_step_alone_is_timed_in_parts(tmp_path, capsys):
    rl.main([*TINY, "--alone", "--pairs", "1", "--json", str(tmp_path / "figures.json")])
    kept = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert set(kept["gorae"]) == {"step", "generation", "scoring", "training"}
    assert all(seconds > 0 for seconds in kept["gorae"].values())
    assert kept["tokens"] == 6
    assert "training" in capsys.readouterr().out


def test_without_trl_the_error_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(rl, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        rl.main(TINY)
    assert "pip install -e '.[benchmark]' brings it" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(find_spec("trl") is None, reason="TRL is an extra, benchmark")
def test_a_step_on_the_same_replies_moves_both_sides_weights_alike(tmp_path):
    rl.main([*TINY, "--check", "--json", str(tmp_path / "figures.json")])
    apart = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["apart"]
    assert apart < 1e-3  # AdamW's first step is a gradient's sign but where that is as small as its rounding


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(find_spec("trl") is None, reason="TRL is an extra, benchmark")
def test_both_sides_are_timed_on_a_small_shape(tmp_path, capsys):
    rl.main([*TINY, "--pairs", "2", "--json", str(tmp_path / "figures.json")])
    kept = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert all(0 < part["low"] <= part["ratio"] <= part["high"] for part in kept["parts"].values())
    assert "quartiles" in capsys.readouterr().out

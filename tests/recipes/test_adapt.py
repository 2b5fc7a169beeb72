"""Stages that learn by additions or by some experts: exact on policy, resumed to the bit, an ordinary model saved."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from gorae.checkpoint import load, load_state, save_model
from gorae.config import override
from gorae.observe import Ledger, read_metrics
from gorae.posttrain import Example
from gorae.recipes import LaptopSettings, learn

RL = {
    "rl.steps": "6",
    "rl.num_prompts": "3",
    "rl.num_samples": "4",
    "rl.max_tokens": "6",
    "rl.save_every": "2",
    "rl.optimizer.lr": "1e-2",
}
TUNE = {"cold_start.steps": "6", "cold_start.batch_size": "4", "cold_start.save_every": "2"}
KINDS = {
    "lora": {"rank": "4"},
    "experts": {"experts": "0.3"},
    "experts by choices": {"experts": "0.3", "score": "token"},
}

every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def start(tmp_path, network, tokenizer) -> Path:
    save_model(tmp_path / "start", network, tokenizer=tokenizer)
    return tmp_path / "start"


@pytest.fixture
def train(start, settings):
    """Run a stage in a folder: `rl`, whose reward looks at the first token, or `sft` on forty examples."""

    def train(folder: Path, stage: str, kind: str) -> Path:
        section = {"rl": "rl", "sft": "cold_start"}[stage]
        changes = {f"{section}.adapter.{name}": value for name, value in KINDS[kind].items()}
        wanted: LaptopSettings = override(settings, RL | TUNE | changes)
        (folder / stage).mkdir(parents=True, exist_ok=True)
        with Ledger(folder / "bill").stage(stage) as meter:
            if stage == "rl":
                learn.reinforce_on_counter(
                    folder / stage,
                    meter,
                    start=start,
                    settings=wanted,
                    grade=lambda problem, output: float(output.token_ids[0] % 4 == 0),
                )
            else:
                examples = [Example([3, 20 + number], [30 + number % 7, 1]) for number in range(40)]
                learn.fine_tune(folder / stage, meter, start=start, examples=examples, wanted=wanted.cold_start, seed=0)
        return folder / stage

    return train


def everything(folder: Path) -> list[object]:
    """Weights by hash, metrics by value, without the clock."""
    model = hashlib.sha256((folder / "model/model.safetensors").read_bytes()).hexdigest()
    return [model, *(line | {"tokens_per_second": 0.0} for line in read_metrics(folder / "metrics.jsonl"))]


@every_kind
def test_reinforcement_learning_is_exact_on_policy_at_every_step(train, tmp_path, kind):
    lines = read_metrics(train(tmp_path, "rl", kind) / "metrics.jsonl")
    assert [line["mismatch_kl"] for line in lines] == [0.0] * 6
    assert [line["clip_ratio"] for line in lines] == [0.0] * 6
    assert lines[0]["kl"] == 0 < lines[-1]["kl"], "the model that began is the reference"


@every_kind
@pytest.mark.parametrize("stage", ["rl", "sft"])
def test_a_stage_killed_at_any_update_ends_with_the_bits_of_one_that_was_not(train, tmp_path, monkeypatch, stage, kind):
    whole = everything(train(tmp_path / "whole", stage, kind))
    update = learn.Trainer.run.__globals__["update"]
    for kill_at in (1, 2, 5):
        made = []

        def deadly(*words, made=made, kill_at=kill_at):
            made.append(words)
            if len(made) == kill_at + 1:
                raise KeyboardInterrupt
            return update(*words)

        with monkeypatch.context() as patch:
            patch.setitem(learn.Trainer.run.__globals__, "update", deadly)
            with pytest.raises(KeyboardInterrupt):
                train(tmp_path / f"killed at {kill_at}", stage, kind)
        assert everything(train(tmp_path / f"killed at {kill_at}", stage, kind)) == whole


@every_kind
@pytest.mark.parametrize("stage", ["rl", "sft"])
def test_what_is_saved_at_the_end_is_an_ordinary_model_and_the_state_is_small(train, tmp_path, start, stage, kind):
    folder = train(tmp_path, stage, kind)
    before, after = (load(path, weights="float32").network.state_dict() for path in (start, folder / "model"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert not any(name.startswith("mtp.") for name in moved)
    state, _ = load_state(folder / "state.safetensors")
    in_state = sum(tensor.numel() for name, tensor in state.items() if name.startswith("network/"))
    assert in_state < 0.6 * sum(tensor.numel() for tensor in before.values())
    if kind != "lora":
        (chosen,) = json.loads((folder / "experts.json").read_text())
        assert moved == {f"blocks.1.feed_forward.{stack}" for stack in ("gate_EFD", "up_EFD", "down_EDF")}
        for name in moved:
            differs = (before[name] != after[name]).flatten(1).any(1).nonzero().flatten().tolist()
            assert differs == chosen
            assert 0 < len(chosen) < len(before[name])

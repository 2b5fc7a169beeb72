"""The RL stage in small, with everything on at once: what is exact with one update a step must be with all of it."""

import hashlib
from pathlib import Path

import pytest

from gorae.checkpoint import save_model
from gorae.config import override
from gorae.observe import Ledger, read_metrics
from gorae.recipes import LaptopSettings, learn, reinforce

RL = {
    "rl.steps": "8",
    "rl.num_prompts": "4",
    "rl.num_samples": "4",
    "rl.max_tokens": "6",
    "rl.save_every": "4",
    "rl.optimizer.lr": "1e-2",
}
EVERYTHING = {
    "rl.algorithm": "gspo",
    "rl.scale_rewards": "batch",
    "rl.epsilon": "0.1",
    "rl.beta": "0.05",
    "rl.reference_every": "2",
    "rl.num_refills": "2",
    "rl.num_updates": "2",
}


@pytest.fixture
def start(tmp_path, network, tokenizer) -> Path:
    save_model(tmp_path / "start", network, tokenizer=tokenizer)
    return tmp_path / "start"


@pytest.fixture
def train(start, settings):
    """Run the stage `rl` in a folder of its own; the reward looks at the first token, and a third of groups is dead."""

    def train(folder: Path, changes: dict[str, str]) -> Path:
        wanted: LaptopSettings = override(settings, RL | changes)
        with Ledger(folder / "bill").stage("rl") as meter:
            learn.reinforce_on_counter(
                folder / "rl",
                meter,
                start=start,
                settings=wanted,
                grade=lambda problem, output: float(output.token_ids[0] % 4 == 0),
            )
        return folder / "rl"

    return train


def everything(folder: Path) -> list[object]:
    """Weights by hash, metrics by value, without the clock."""
    model = hashlib.sha256((folder / "model/model.safetensors").read_bytes()).hexdigest()
    return [model, *(line | {"tokens_per_second": 0.0} for line in read_metrics(folder / "metrics.jsonl"))]


def test_a_stage_with_every_setting_on_reports_what_each_does(train, tmp_path):
    lines = read_metrics(train(tmp_path / "whole", EVERYTHING) / "metrics.jsonl")
    assert len(lines) == 8
    assert all(line["mismatch_kl"] == 0 for line in lines[::2]), "a batch's first update is on policy"
    assert all(line["update_kl"] > 0 for line in lines[1::2])
    assert all("update_kl" not in line for line in lines[::2])
    assert [line["kl"] == 0 for line in lines] == [True, False] * 4, "each batch begins with a new reference"


def test_a_stage_killed_at_any_update_ends_with_the_bits_of_one_that_was_not(train, tmp_path, monkeypatch):
    whole = everything(train(tmp_path / "whole", EVERYTHING))
    make = reinforce.policy_batch
    for kill_at in (1, 3, 5, 6, 7):
        made = []

        def deadly(*words, made=made, kill_at=kill_at, **named):
            made.append(words)
            if len(made) == kill_at + 1:
                raise KeyboardInterrupt
            return make(*words, **named)

        monkeypatch.setattr(reinforce, "policy_batch", deadly)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / f"killed-{kill_at}", EVERYTHING)
        monkeypatch.setattr(reinforce, "policy_batch", make)
        assert everything(train(tmp_path / f"killed-{kill_at}", EVERYTHING)) == whole, kill_at


def test_every_setting_alone_makes_another_model(train, tmp_path):
    """On top of two updates a batch and a distance in the loss: otherwise clipping and reference change nothing."""
    plain = {"rl.num_updates": "2", "rl.beta": "0.05"}
    changes = [{}, {"rl.num_updates": "1"}, {"rl.beta": "0"}, {"rl.exclude_dead_groups": "true"}]
    changes += [{name: value} for name, value in EVERYTHING.items() if name not in plain]
    models = {
        everything(train(tmp_path / str(number), plain | change))[0]: change for number, change in enumerate(changes)
    }
    assert list(models.values()) == changes

"""Rows of the user's: what is learnt from them, that runs go on where they were, and that bad rows end them at once."""

import hashlib
import json

import pytest
import torch

from gorae.checkpoint import load, save_model
from gorae.config import override
from gorae.observe import read_metrics
from gorae.recipes import ExamplesSettings, PreferencesSettings, examples, tune_on_examples, tune_on_preferences
from gorae.train import Trainer

SFT = {"sft.steps": "6", "sft.batch_size": "3", "sft.save_every": "2"}
DPO = {"dpo.steps": "8", "dpo.batch_size": "3", "dpo.save_every": "2", "dpo.optimizer.lr": "5e-3"}
TOLD = [
    {"messages": [{"role": "user", "content": f"计数器 {n}"}, {"role": "assistant", "content": "7"}]} for n in range(5)
]
TOLD.append({"prompt": "plus", "completion": [{"role": "assistant", "content": "9", "reasoning_content": "minus"}]})
PREFERRED = [{"prompt": f"计数器 {n}", "chosen": "7", "rejected": "8"} for n in range(5)]


@pytest.fixture
def begin(tmp_path, network, tokenizer):
    """Write rows, and return the settings of a short run on them."""
    save_model(tmp_path / "model", network, tokenizer=tokenizer)

    def begin(kind, rows, **changes: str):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        changes = {name.replace("__", "."): value for name, value in changes.items()}
        return override(kind(path, tmp_path / "model"), (SFT if kind is ExamplesSettings else DPO) | changes)

    return begin


def everything(folder, stage: str) -> list[object]:
    model = hashlib.sha256((folder / stage / "model/model.safetensors").read_bytes()).hexdigest()
    return [model, *(line | {"tokens_per_second": 0.0} for line in read_metrics(folder / stage / "metrics.jsonl"))]


def test_conversations_are_imitated(begin, tmp_path):
    told = tune_on_examples(tmp_path / "run", begin(ExamplesSettings, TOLD))
    assert told["measured"]["loss"]["last"] < told["measured"]["loss"]["first"]
    assert {stage["stage"] for stage in told["bill"]["stages"]} == {"tokens", "sft"}
    assert json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8"))["measured"] == told["measured"]
    assert load(tmp_path / "run/sft/model").tokenizer is not None


def test_every_reply_of_a_conversation_is_imitated_behind_its_own_prompt(begin, tmp_path, tokenizer):
    turns = [("user", "plus"), ("assistant", "1"), ("user", "minus"), ("assistant", "2")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    only_last = {"prompt": row["messages"][:3], "completion": row["messages"][3:]}
    found = list(examples.examples_in(begin(ExamplesSettings, [row, only_last]).examples, tmp_path / "model"))
    assert [tokenizer.decode(one.reply_ids) for one in found] == ["</think>1", "</think>2", "</think>2"]
    assert found[1] == found[2]
    assert len(found[0].prompt_ids) < len(found[1].prompt_ids)


@pytest.mark.parametrize("adapter", [{}, {"dpo__adapter__rank": "2"}, {"dpo__adapter__experts": "0.3"}])
def test_what_was_preferred_becomes_likelier(begin, tmp_path, adapter):
    told = tune_on_preferences(tmp_path / "run", begin(PreferencesSettings, PREFERRED, **adapter))
    lines = read_metrics(tmp_path / "run/dpo/metrics.jsonl")
    assert (lines[0]["rewards/margins"], lines[0]["rewards/accuracies"]) == (0, 0), "the model is its own reference"
    assert lines[-1]["rewards/accuracies"] == 1
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert told["measured"]["rewards/margins"]["last"] > 0
    assert not told["alarms"]


@pytest.mark.parametrize(
    ("kind", "tune", "stage", "rows"),
    [
        (ExamplesSettings, tune_on_examples, "sft", TOLD),
        (PreferencesSettings, tune_on_preferences, "dpo", PREFERRED),
    ],
)
def test_a_run_killed_anywhere_goes_on_with_what_it_read_and_ends_in_the_same_bits(
    begin, tmp_path, monkeypatch, kind, tune, stage, rows
):
    settings = begin(kind, rows)
    tune(tmp_path / "whole", settings)
    save = Trainer.save
    for kill_at in (2, 4):
        with monkeypatch.context() as patch:

            def save_and_die(self, step, kill_at=kill_at):
                save(self, step)
                if step == kill_at:
                    raise KeyboardInterrupt

            patch.setattr(Trainer, "save", save_and_die)
            with pytest.raises(KeyboardInterrupt):
                tune(tmp_path / "killed", settings)
        settings.examples.unlink(missing_ok=True) if kind is ExamplesSettings else settings.preferences.unlink(True)
    tune(tmp_path / "killed", settings)
    assert everything(tmp_path / "killed", stage) == everything(tmp_path / "whole", stage)


def test_the_reference_is_read_once(begin, tmp_path, monkeypatch):
    settings, read = begin(PreferencesSettings, PREFERRED), []
    reference = examples.reference_log_probs
    monkeypatch.setattr(
        examples, "reference_log_probs", lambda *a, **named: (read.append(1), reference(*a, **named))[1]
    )
    save = Trainer.save
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", lambda self, step: (save(self, step), 1 / 0))
        with pytest.raises(ZeroDivisionError):
            tune_on_preferences(tmp_path / "run", settings)
    tune_on_preferences(tmp_path / "run", settings)
    assert read == [1]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": "x"}, "line 7: the row has no completion"),
        ({"prompt": "plus " * 1100, "completion": "x"}, "line 7: it has .* tokens, and the model reads 1024; shorten"),
    ],
)
def test_a_bad_row_ends_a_run_before_anything_is_learnt(begin, tmp_path, row, told):
    with pytest.raises(ValueError, match=told):
        tune_on_examples(tmp_path / "run", begin(ExamplesSettings, [*TOLD, row]))
    assert not (tmp_path / "run/sft").exists()


def test_the_bits_of_a_run_with_an_adapter_differ_from_those_of_one_without(begin, tmp_path):
    """So that a setting that is not passed on is found."""
    for name, changes in (
        ("all", {}),
        ("lora", {"sft__adapter__rank": "2"}),
        ("esft", {"sft__adapter__experts": "0.3"}),
    ):
        tune_on_examples(tmp_path / name, begin(ExamplesSettings, TOLD, **changes))
    states = [load(tmp_path / name / "sft/model").network for name in ("all", "lora", "esft")]
    heads = [network.head_WD for network in states]
    assert not torch.equal(heads[0], heads[1])
    assert torch.equal(heads[1], heads[2])

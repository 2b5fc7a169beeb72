"""Tuning on rows of the user's: conversations to imitate, or pairs of replies of which one was preferred.

tokens → sft, or dpo → report. The stages of supervised fine-tuning are those of `learn`.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from torch import Tensor

from gorae.checkpoint import load_state, save_model, save_state
from gorae.config import as_dict
from gorae.data import read_demonstrations, read_preferences
from gorae.evals import draw_curves
from gorae.observe import Meter, log, read_metrics, read_prices, replace_text, rung
from gorae.posttrain import (
    DpoSettings,
    Example,
    Preference,
    example_of,
    preference_batches,
    preference_loss,
    reference_log_probs,
)
from gorae.recipes.adapt import some_examples, tuner
from gorae.recipes.compute import count_reading, count_training
from gorae.recipes.learn import fine_tune
from gorae.recipes.run import ChatModel, Run, load_chat_model
from gorae.recipes.settings import TuneSettings
from gorae.text import Message
from gorae.train import Batch

ROWS = "rows.jsonl"
TOLD = ("loss", "rewards/accuracies", "rewards/margins")
LAST_STEPS = 10  # whose mean is told


@dataclass(frozen=True)
class ExamplesSettings:
    """examples: a .jsonl file of conversations; model: where to begin; the others as in the laptop recipe."""

    examples: Path
    model: Path
    seed: int = 0
    threads: int | None = None
    sft: TuneSettings = TuneSettings()


@dataclass(frozen=True)
class PreferencesSettings:
    """preferences: a .jsonl file of pairs; model: where to begin; the others as in the laptop recipe."""

    preferences: Path
    model: Path
    seed: int = 0
    threads: int | None = None
    dpo: DpoSettings = DpoSettings()


def tune_on_examples(folder: Path, settings: ExamplesSettings) -> dict[str, Any]:
    """Do every stage that is not done in `folder`, print and write the report, and return it; the model is in `sft`."""
    read_prices()  # a table that cannot be read is refused before the work, not after
    run = Run.open(folder, settings)
    rows = run.stage("tokens", lambda at, _: write_rows(at, examples_in(settings.examples, settings.model)))

    def learn(at: Path, meter: Meter) -> None:
        examples = [Example(**row) for row in read_rows(rows)]
        fine_tune(at, meter, start=settings.model, examples=examples, wanted=settings.sft, seed=settings.seed)

    return report(run, run.stage("sft", learn))


def tune_on_preferences(folder: Path, settings: PreferencesSettings) -> dict[str, Any]:
    """Do every stage that is not done in `folder`, print and write the report, and return it; the model is in `dpo`."""
    read_prices()
    run = Run.open(folder, settings)
    rows = run.stage("tokens", lambda at, _: write_rows(at, pairs_in(settings.preferences, settings.model)))

    def learn(at: Path, meter: Meter) -> None:
        pairs = [Preference(**row) for row in read_rows(rows)]
        prefer(at, meter, start=settings.model, pairs=pairs, wanted=settings.dpo, seed=settings.seed)

    return report(run, run.stage("dpo", learn))


def examples_in(path: Path, start: Path) -> Iterator[Example]:
    """An example for every reply that is to be imitated, with the prompt that the model would be given before it."""
    model = load_chat_model(start)
    for one in read_demonstrations(path):
        for number, message in enumerate(one.messages):
            if message.role == "assistant" and number >= max(one.first, 1):
                yield fitting_example(model, one.messages[:number], message, one.place)


def pairs_in(path: Path, start: Path) -> Iterator[Preference]:
    """The ids of every pair. What a model's format adds to a prompt for the one reply must be so for the other."""
    model = load_chat_model(start)
    for one in read_preferences(path):
        chosen, rejected = (
            fitting_example(model, one.prompt, reply, one.place) for reply in (one.chosen, one.rejected)
        )
        if chosen.prompt_ids != rejected.prompt_ids:
            raise ValueError(
                f"{one.place}: one reply thinks and the other does not, which this model is told beforehand"
            )
        yield Preference(chosen.prompt_ids, chosen.reply_ids, rejected.reply_ids)


def fitting_example(model: ChatModel, messages: Sequence[Message], reply: Message, place: str) -> Example:
    try:
        example = example_of(model.tokenizer, messages, reply)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    length, most = len(example.prompt_ids) + len(example.reply_ids), model.config.max_positions
    if length > most:
        raise ValueError(f"{place}: it has {length} tokens, and the model reads {most}; shorten or remove the row")
    return example


def prefer(
    folder: Path, meter: Meter, *, start: Path, pairs: Sequence[Preference], wanted: DpoSettings, seed: int
) -> None:
    """Direct preference optimisation, from the model in `start`, which is its own reference."""
    model = load_chat_model(start, trainable=True)
    config, pad_id = replace(model.config, num_mtp_modules=0), model.tokenizer.pad_id
    chosen = [Example(one.prompt_ids, one.chosen_ids) for one in pairs]
    rows = partial(some_examples, chosen, seed=seed)
    trainer = tuner(folder, model.network, wanted, seed=seed, rows=rows)

    def read(batch: Batch) -> None:
        count_reading(meter, config, batch.token_ids_BT)

    def reference() -> Tensor:
        size = wanted.batch_size
        return reference_log_probs(model.network, pairs, batch_size=size, pad_id=pad_id, count=read)

    kept = once(folder / "reference.safetensors", reference)
    batch = preference_batches(pairs, kept, batch_size=wanted.batch_size, seed=seed, pad_id=pad_id)
    loss = partial(preference_loss, beta=wanted.beta)
    trainer.run(batch, loss, meter=meter, count=partial(count_training, meter, config))
    save_model(folder / "model", model.network, tokenizer=model.tokenizer)


def once(path: Path, make: Callable[[], Tensor]) -> Tensor:
    """What `make` gave when it was called first: it is kept in a file."""
    if not path.exists():
        save_state(path, {"made": make()}, {})
    return load_state(path)[0]["made"]


def write_rows(folder: Path, rows: Iterable[Example | Preference]) -> None:
    """Keep token ids, so that a run goes on with what it began with."""
    replace_text(folder / ROWS, "".join(json.dumps(vars(one)) + "\n" for one in rows))


def read_rows(folder: Path) -> list[dict[str, list[int]]]:
    return [json.loads(line) for line in (folder / ROWS).read_text(encoding="utf-8").splitlines()]


def report(run: Run[Any], stage: Path) -> dict[str, Any]:
    """Print and write how learning went, and what it cost."""
    metrics = read_metrics(stage / "metrics.jsonl")
    draw_curves(run.folder, {stage.name: metrics}, evaluation={})
    measured = {
        name: {"first": metrics[0][name], "last": mean(line[name] for line in metrics[-LAST_STEPS:])}
        for name in TOLD
        if name in metrics[0]
    }
    alarms = rung(metrics)
    bill = run.ledger.bill(read_prices())
    Console().print(bill.table())
    for name, one in measured.items():
        log(f"{name}: {one['first']:.4g} at the first step, {one['last']:.4g} over the last")
    for alarm in alarms:
        log(f"alarm: {alarm}")
    told = {"measured": measured, "alarms": alarms, "bill": bill.as_dict(), "settings": as_dict(run.settings)}
    replace_text(run.folder / "report.json", json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    log(f"report: {run.folder / 'report.json'}; the model: {stage / 'model'}")
    return told

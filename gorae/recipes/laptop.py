"""From nothing to a reasoning model on a laptop: the stages of the recipe and their order.

prepare → pretrain → cold start → RL → distil into a student → evaluate → report
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from gorae.checkpoint import load
from gorae.config import as_dict, count_parameters
from gorae.evals import draw_curves, print_table, write_report
from gorae.observe import Meter, log, read_metrics, read_prices
from gorae.recipes.corpus import prepare, sealed_items
from gorae.recipes.learn import (
    cold_start_examples,
    fine_tune,
    pretrain,
    read_traces,
    reinforce_on_counter,
    sample_teacher,
)
from gorae.recipes.measure import measure, read_summaries
from gorae.recipes.run import BEGUN, Run
from gorae.recipes.settings import LaptopSettings
from gorae.text import Mode, Tokenizer

STAGES = ("prepare", "pretrain", "cold_start", "rl", "student_pretrain", "student_cold_start", "traces", "distill")
MEASURED: dict[str, tuple[str, Mode]] = {
    "base": ("cold_start", "free"),
    "base_think": ("cold_start", "think"),
    "base_direct": ("cold_start", "direct"),
    "rl": ("rl", "free"),
    "student_base": ("student_cold_start", "free"),
    "student_distilled": ("distill", "free"),
}


def run_laptop(folder: Path, settings: LaptopSettings) -> dict[str, Any]:
    """Do every stage that is not done in `folder`, evaluate, print and write the report; returns it."""
    read_prices()  # a table that cannot be read is refused before the work, not after
    run = Run.open(folder, settings)
    make_models(run)
    return report(run)


def make_models(run: Run[LaptopSettings], *, until: str = "distill") -> None:
    """The learning stages up to and including `until`."""
    settings, seed, at = run.settings, run.settings.seed, run.folder
    base = partial(pretrain, prepared=at / "prepare", seed=seed)
    tune = partial(tune_on_cold_start, settings=settings)
    work = {
        "prepare": partial(prepare, settings=settings),
        "pretrain": partial(base, config=settings.teacher, wanted=settings.pretrain),
        "cold_start": partial(tune, start=at / "pretrain/model"),
        "rl": partial(reinforce_on_counter, start=at / "cold_start/model", settings=settings),
        "student_pretrain": partial(base, config=settings.student, wanted=settings.student_pretrain),
        "student_cold_start": partial(tune, start=at / "student_pretrain/model"),
        "traces": partial(sample_teacher, teacher=at / "rl/model", settings=settings, wanted=settings.distill),
        "distill": partial(imitate_teacher, start=at / "student_cold_start/model", settings=settings),
    }
    for name in STAGES[: STAGES.index(until) + 1]:
        run.stage(name, work[name])


def tune_on_cold_start(folder: Path, meter: Meter, *, start: Path, settings: LaptopSettings) -> None:
    examples = cold_start_examples(Tokenizer.load(start), settings)
    fine_tune(folder, meter, start=start, examples=examples, wanted=settings.cold_start, seed=settings.seed)


def imitate_teacher(folder: Path, meter: Meter, *, start: Path, settings: LaptopSettings) -> None:
    traces = read_traces(folder.parent / "traces")
    fine_tune(folder, meter, start=start, examples=traces, wanted=settings.distill.tune, seed=settings.seed)


def report(run: Run[LaptopSettings]) -> dict[str, Any]:
    """Measure every model, then write table, pictures and bill; the run's wall time is that of all its attempts."""
    models = models_of(run.folder, MEASURED)
    measured = run.stage("evaluate", partial(measure, models=models, settings=run.settings))
    summaries = read_summaries(measured, list(models))
    draw_curves(run.folder, read_curves(run.folder), evaluation=summaries)
    bill = run.ledger.bill(read_prices())
    written = write_report(
        run.folder, summaries, bill=bill, seconds=bill.total.wall_seconds or 0.0, extra=circumstances(run)
    )
    print_table(summaries)
    Console().print(bill.table())
    log(f"report: {run.folder / 'report.md'}")
    return written


def models_of(folder: Path, measured: dict[str, tuple[str, Mode]]) -> dict[str, tuple[Path, Mode]]:
    """The model folders of stages, and the mode in which each is to be asked."""
    return {name: (folder / stage / "model", mode) for name, (stage, mode) in measured.items()}


def read_curves(folder: Path, *more_stages: str) -> dict[str, list[dict[str, float]]]:
    """The metrics of every stage that has some."""
    files = {name: folder / name / "metrics.jsonl" for name in (*STAGES, *more_stages)}
    return {name: read_metrics(path) for name, path in files.items() if path.exists()}


def circumstances(run: Run[LaptopSettings]) -> dict[str, Any]:
    """What the figures depend on: models, items, machine, commit, settings."""
    stages = {"teacher": "rl", "student": "distill"}
    parameters = {name: count_parameters(load(run.folder / stage / "model").config) for name, stage in stages.items()}
    items = sealed_items(run.settings.prepare)
    return {
        "models": {name: vars(counted) for name, counted in parameters.items()},
        "sealed_items": {"sha256": items.sha256, "drawn": len(items.problems), "used": run.settings.evaluate.items},
        "settings": as_dict(run.settings),
        **json.loads((run.folder / BEGUN).read_text()),
    }

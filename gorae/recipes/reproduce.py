"""Evidence that the recipe does what it says: fresh seeds, a control, and the student taught the other way.

Random rewards must not help; the student trained by RL with the compute that distilling took must stay behind.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gorae.config import as_dict
from gorae.evals import draw_curves, evaluation_markdown, median_of_seeds, print_table, write_report
from gorae.observe import Meter, format_flops, log, read_prices, replace_text
from gorae.recipes.compute import flops_of
from gorae.recipes.foreign import measure_foreign_family
from gorae.recipes.laptop import MEASURED, circumstances, make_models, read_curves
from gorae.recipes.learn import reinforce_on_counter, reward_at_random
from gorae.recipes.measure import measure, read_summaries
from gorae.recipes.run import Run
from gorae.recipes.settings import LaptopSettings
from gorae.text import Mode
from gorae.train import Schedule

SEEDS = (201, 202, 203)  # none of them used while the recipe was tuned
ITEMS = 300
ENOUGH_STEPS = 10_000  # of RL on the student: its compute runs out long before

EXTRA_MEASURED: dict[str, tuple[str, Mode]] = {
    "control": ("control", "free"),
    "student_rl": ("student_rl", "free"),
    "student_rl_all": ("student_rl_all", "free"),
}


def reproduce_reasoning(folder: Path, settings: LaptopSettings) -> dict[str, Any]:
    """The recipe and its controls for every seed, then medians and the bar they are held to; all kept in `folder`."""
    reports = {str(seed): report_of_seed(folder / f"seed-{seed}", replace(settings, seed=seed)) for seed in SEEDS}
    median = median_of_seeds(list(reports.values()))
    evidence = {"median": median, "bar": check_bar(median["evaluation"]), "seeds": reports}
    curves = {
        f"{stage}, seed {seed}": records
        for seed in SEEDS
        for stage, records in read_curves(folder / f"seed-{seed}", "control").items()
        if stage in ("rl", "control")
    }
    draw_curves(folder, curves, evaluation=median["evaluation"])
    replace_text(folder / "report.json", json.dumps(evidence, indent=2, ensure_ascii=False) + "\n")
    replace_text(folder / "report.md", "\n".join(evidence_markdown(evidence)))
    print_table(median["evaluation"])
    log(f"report: {folder / 'report.md'}")
    return evidence


def check_bar(evaluation: dict[str, Any]) -> dict[str, bool]:
    """What the recipe claims, and whether these medians show it."""

    def share(name: str) -> float:
        return evaluation[name]["pass_at_1"]

    def is_clearly_above(upper: str, lower: str) -> bool:
        return evaluation[upper]["ci95"][0] > evaluation[lower]["ci95"][1]

    return {
        "RL lifts pass@1 over base by 20 points or more, intervals apart": (
            share("rl") - share("base") >= 0.2 and is_clearly_above("rl", "base")
        ),
        "RL beats the base model made to think": share("rl") > share("base_think"),
        "random rewards do not lift the base model": not is_clearly_above("control", "base"),
        "the base model made to think beats the base model made to answer at once": (
            share("base_think") > share("base_direct")
        ),
        "the distilled student beats the student trained by RL with equal compute": (
            share("student_distilled") > share("student_rl")
        ),
    }


def evidence_markdown(evidence: dict[str, Any]) -> Iterator[str]:
    """Medians, bar, pictures, then each seed's table, its compute and where it ran."""
    yield f"# Evidence: medians of {len(evidence['seeds'])} seeds\n"
    yield evaluation_markdown(evidence["median"]["evaluation"]) + "\n"
    yield from (f"- {'held' if holds else '**missed**'}: {claim}" for claim, holds in evidence["bar"].items())
    yield "\n" + "\n".join(f"![{name}]({name})" for name in ("accuracy.png", "reward.png", "response_length.png"))
    for seed, report in evidence["seeds"].items():
        machine, items = report["machine"], report["sealed_items"]
        yield f"\n## Seed {seed}\n\n{evaluation_markdown(report['evaluation'])}\n"
        yield from (
            f"- {name}: {format_flops(spent['counted'])} counted, {format_flops(spent['allowed'])} allowed"
            for name, spent in report["compute"].items()
        )
        yield f"- reasoning-gym: {json.dumps(report['reasoning_gym'])}"
        yield f"- {machine['processor']}, {machine['vectors']}, threads: {machine['threads']}, torch {machine['torch']}"
        yield f"- commit {report['commit']}; {report['seconds'] / 60:.0f} minutes; sealed items {items['sha256']}"


def report_of_seed(folder: Path, settings: LaptopSettings) -> dict[str, Any]:
    """A seed's report as it was written, if there is one of these settings; else the run comes first."""
    settings = replace(settings, evaluate=replace(settings.evaluate, items=ITEMS))
    written = folder / "report.json"
    report = json.loads(written.read_text()) if written.exists() else {}
    return report if report.get("settings") == as_dict(settings) else run_seed(folder, settings)


def run_seed(folder: Path, settings: LaptopSettings) -> dict[str, Any]:
    """One seed: the recipe, the control, the student by RL twice, and a task from elsewhere."""
    run = Run.open(folder, settings)
    make_models(run)
    control = partial(
        reinforce_on_counter, start=folder / "cold_start/model", settings=run.settings, grade=reward_at_random
    )
    run.stage("control", control)
    distilling = flops_of(folder / "traces") + flops_of(folder / "distill")
    budgets = {"student_rl": distilling, "student_rl_all": distilling + flops_of(folder / "rl")}
    for name, flops in budgets.items():
        run.stage(name, partial(reinforce_student, settings=run.settings, max_flops=flops))
    measured = MEASURED | EXTRA_MEASURED
    models: dict[str, tuple[Path, Mode]] = {
        name: (folder / stage / "model", mode) for name, (stage, mode) in measured.items()
    }
    evaluated = run.stage("evaluate", partial(measure, models=models, settings=run.settings))
    foreign = run.stage("foreign", partial(measure_foreign_family, models=models, settings=run.settings))
    summaries = read_summaries(evaluated, list(models))
    draw_curves(folder, read_curves(folder, *EXTRA_MEASURED), evaluation=summaries)
    bill = run.ledger.bill(read_prices())
    extra = circumstances(run) | {
        "compute": {name: {"allowed": flops, "counted": flops_of(folder / name)} for name, flops in budgets.items()},
        "reasoning_gym": json.loads((foreign / "foreign.json").read_text()),
    }
    print_table(summaries)
    return write_report(folder, summaries, bill=bill, seconds=bill.total.wall_seconds or 0.0, extra=extra)


def reinforce_student(folder: Path, meter: Meter, *, settings: LaptopSettings, max_flops: float) -> None:
    """RL on the student until the counted FLOPs reach `max_flops`: the teacher's warm-up, then the peak rate."""
    teachers = settings.rl.schedule
    warmup_fraction = teachers.warmup_fraction * teachers.num_steps / ENOUGH_STEPS
    reinforce_on_counter(
        folder,
        meter,
        start=folder.parent / "student_cold_start/model",
        settings=settings,
        schedule=Schedule(ENOUGH_STEPS, warmup_fraction=warmup_fraction, decay_fraction=0.0),
        max_flops=max_flops,
    )

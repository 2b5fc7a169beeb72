"""R1's claims in small: the laptop recipe and what it is compared with, fresh seeds, beside published figures.

A seed is a run folder. Its stages beyond the recipe's: `control` (random rewards), `zero` (RL alone), `mixed` (a cold
start that mixes languages), `int4` (rollouts of other numerics), and the student taught otherwise, at equal compute.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gorae.config import as_dict
from gorae.evals import draw_curves, evaluation_markdown, median_of_seeds, print_table, write_report
from gorae.observe import Meter, format_flops, log, read_prices, replace_text
from gorae.posttrain import OnPolicySettings
from gorae.recipes.claims import CLAIMS, claims_table
from gorae.recipes.compute import flops_of
from gorae.recipes.foreign import measure_foreign_family
from gorae.recipes.laptop import MEASURED, circumstances, make_models, models_of, read_curves, tune_on_cold_start
from gorae.recipes.learn import (
    counter_questions,
    in_words_of,
    read_traces,
    reinforce_on_counter,
    reward_at_random,
    reward_by_grade,
    reward_in_one_language,
)
from gorae.recipes.measure import measure, read_summaries
from gorae.recipes.run import Run
from gorae.recipes.settings import LaptopSettings
from gorae.recipes.teach import distil_from_logits, distil_on_policy
from gorae.text import PLAIN, Mode
from gorae.train import OptimizerSettings, Schedule

SEEDS = (401, 402, 403)  # none of them used while the recipe was tuned
ITEMS = 300
ENOUGH_STEPS = 10_000  # of learning on the student: its compute runs out long before
AS_A_TEXT = "{{ bos_token }}{{ messages[-1]['content'] }}\n="  # how the base model has read problems

LOGIT_STEPS = 230  # as many of these as the compute allows, and no more, so that the rate has its decay
ON_POLICY = OnPolicySettings(steps=450, num_prompts=16, optimizer=OptimizerSettings(lr=4e-3, matrix_lr=1e-2))

EXTRA_STAGES = (
    *("control", "zero", "mixed", "mixed_consistent", "int4", "int4_corrected"),
    *("student_rl", "student_logits", "student_policy"),
)
EXTRA_MEASURED: dict[str, tuple[str, Mode]] = {
    "zero_base": ("zero_start", "free"),
    **{name: (name, "free") for name in EXTRA_STAGES if not name.startswith("mixed")},
}
IN_WORDS: dict[str, tuple[str, Mode]] = {
    "mixed_base": ("mixed_cold_start", "free"),
    "mixed": ("mixed", "free"),
    "mixed_consistent": ("mixed_consistent", "free"),
}


def reproduce_reasoning(folder: Path, settings: LaptopSettings, seeds: Sequence[int] = SEEDS) -> dict[str, Any]:
    """The recipe and its comparisons for every seed, then medians and claims; all kept in `folder`."""
    reports = {str(seed): report_of_seed(folder / f"seed-{seed}", replace(settings, seed=seed)) for seed in seeds}
    median = median_of_seeds(list(reports.values()))
    summaries = [report["evaluation"] for report in reports.values()]
    held = {claim.told: [claim.holds(seed) for seed in summaries] for claim in CLAIMS}
    evidence = {"median": median, "claims": held, "seeds": reports}
    curves = {
        f"{stage}, seed {seed}": records
        for seed in seeds
        for stage, records in read_curves(folder / f"seed-{seed}", *EXTRA_STAGES).items()
        if stage in ("rl", "control", "zero")
    }
    draw_curves(folder, curves, evaluation=median["evaluation"])
    replace_text(folder / "report.json", json.dumps(evidence, indent=2, ensure_ascii=False) + "\n")
    replace_text(folder / "report.md", "\n".join(evidence_markdown(evidence)))
    print_claims(summaries)
    log(f"report: {folder / 'report.md'}")
    return evidence


def print_claims(summaries: Sequence[dict[str, Any]]) -> None:
    heading, *rows = claims_table(summaries)
    layout: dict[str, Any] = {"title": "Claims", "box": SIMPLE_HEAD, "pad_edge": False, "title_justify": "left"}
    table = Table(*heading, **layout)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def evidence_markdown(evidence: dict[str, Any]) -> Iterator[str]:
    """Claims, medians, pictures, then each seed's table, its compute and where it ran."""
    seeds = evidence["seeds"]
    heading, *rows = claims_table([report["evaluation"] for report in seeds.values()])
    yield f"# Reasoning, reproduced in small: {len(seeds)} seeds\n"
    yield "Medians over seeds, in brackets the smallest and largest. A claim holds in a seed where the 95% intervals of"
    yield "pass@1 do not touch; where a figure has no interval, where it is larger.\n"
    yield from (f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *rows))
    yield f"\n## Medians\n\n{evaluation_markdown(evidence['median']['evaluation'])}"
    yield "\n" + "\n".join(f"![{name}]({name})" for name in ("accuracy.png", "reward.png", "response_length.png"))
    for seed, report in seeds.items():
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
    """One seed: the recipe, then every stage that it is compared with, and a task from elsewhere."""
    run = Run.open(folder, settings)
    make_models(run)
    reinforced = partial(reinforce_on_counter, start=folder / "cold_start/model", settings=settings)
    run.stage("control", partial(reinforced, grade=reward_at_random))
    learn_alone(run)
    learn_in_words(run)
    learn_from_rounded(run)
    budgets = teach_otherwise(run)
    models, in_words = models_of(folder, MEASURED | EXTRA_MEASURED), models_of(folder, IN_WORDS)
    measured = run.stage("evaluate", partial(measure, models=models, settings=settings))
    spoken = run.stage("evaluate_words", partial(measure, models=in_words, settings=in_words_of(settings)))
    foreign = run.stage("foreign", partial(measure_foreign_family, models=models, settings=settings))
    summaries = read_summaries(measured, list(models)) | read_summaries(spoken, list(in_words))
    draw_curves(folder, read_curves(folder, *EXTRA_STAGES), evaluation=summaries)
    bill = run.ledger.bill(read_prices())
    extra = circumstances(run) | {
        "compute": {name: {"allowed": flops, "counted": flops_of(folder / name)} for name, flops in budgets.items()},
        "reasoning_gym": json.loads((foreign / "foreign.json").read_text()),
    }
    print_table(summaries)
    return write_report(folder, summaries, bill=bill, seconds=bill.total.wall_seconds or 0.0, extra=extra)


def learn_alone(run: Run[LaptopSettings]) -> None:
    """R1-Zero's way: RL from the base model, which is asked as its corpus asked."""
    grade = partial(reward_by_grade, chat_format=PLAIN)
    start = run.stage("zero_start", partial(ask_as_a_text, base=run.folder / "pretrain/model"))
    run.stage("zero", partial(reinforce_on_counter, start=start / "model", settings=run.settings, grade=grade))


def ask_as_a_text(folder: Path, _: Meter, *, base: Path) -> None:
    """The model in `base` with a chat template that writes a problem as the corpus does, and nothing else."""
    shutil.copytree(base, folder / "model", dirs_exist_ok=True)
    replace_text(folder / "model/chat_template.jinja", AS_A_TEXT)


def learn_in_words(run: Run[LaptopSettings]) -> None:
    """A cold start whose worked solutions mix languages, then RL without and with a reward for one language."""
    settings = in_words_of(run.settings)
    base = run.folder / "pretrain/model"
    start = run.stage("mixed_cold_start", partial(tune_on_cold_start, start=base, settings=settings)) / "model"
    for name, grade in (("mixed", reward_by_grade), ("mixed_consistent", reward_in_one_language)):
        run.stage(name, partial(reinforce_on_counter, start=start, settings=settings, grade=grade))


def learn_from_rounded(run: Run[LaptopSettings]) -> None:
    """RL on rollouts of weights rounded to 4 bits, without and with importance weights and replayed experts."""
    settings, start = run.settings, run.folder / "cold_start/model"
    rounded = replace(settings.rl, rollouts="int4")
    corrected = replace(rounded, correction="tis_tokens", replay=True)
    for name, rl in (("int4", rounded), ("int4_corrected", corrected)):
        run.stage(name, partial(reinforce_on_counter, start=start, settings=replace(settings, rl=rl)))


def teach_otherwise(run: Run[LaptopSettings]) -> dict[str, float]:
    """The student by RL, by the teacher's logits and on its own samples; returns what FLOPs each may take."""
    folder, settings = run.folder, run.settings
    distilling = flops_of(folder / "traces") + flops_of(folder / "distill")
    budgets = {"student_rl": distilling, "student_logits": flops_of(folder / "distill"), "student_policy": distilling}
    run.stage("student_rl", partial(reinforce_student, settings=settings, max_flops=budgets["student_rl"]))
    shared = {"teacher": folder / "rl/model", "start": folder / "student_cold_start/model", "seed": settings.seed}
    wanted = replace(settings.distill.tune, steps=LOGIT_STEPS)
    by_logits = partial(distil_from_logits, examples=read_traces(folder / "traces"), wanted=wanted, **shared)
    run.stage("student_logits", partial(by_logits, max_flops=budgets["student_logits"]))
    asked = partial(counter_questions, settings, f"policy/{settings.seed}", ON_POLICY.num_prompts, reward_by_grade)
    wanted = replace(ON_POLICY, max_tokens=settings.rl.max_tokens)
    run.stage(
        "student_policy",
        partial(distil_on_policy, ask=asked, wanted=wanted, max_flops=budgets["student_policy"], **shared),
    )
    return budgets


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

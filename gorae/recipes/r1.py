"""R1's whole pipeline from a base model, stage by stage as its paper has them (arXiv 2501.12948, section 2.3).

cold start → reasoning RL → rejection sampling → SFT of the base model → RL for all tasks → report
"""

import json
import math
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from gorae.config import as_dict
from gorae.engine import Engine, SamplingParams
from gorae.evals import draw_curves, print_table
from gorae.observe import Meter, log, read_prices, replace_text
from gorae.posttrain import Example, keep_correct, rollouts_of, sample_groups
from gorae.recipes.laptop import make_models, read_curves
from gorae.recipes.learn import fine_tune, in_words_of, read_traces, write_traces
from gorae.recipes.measure import read_summaries
from gorae.recipes.run import Run, load_chat_model
from gorae.recipes.settings import EvaluateSettings, LaptopSettings
from gorae.recipes.task import TaskSettings, earned, grade, learn, messages_of, seal
from gorae.tasks import Environments, Graders, Row, identity_of
from gorae.text import Message

REASONING, QUICK, ALL = "readable_counter", "turns", "all_tasks"  # tasks that come with Gorae
FULL_MARKS = 2.0  # the answer and the format, and every letter in the language of the question
EPOCHS = 2  # of the fine-tuning, as R1's
STAGES = ("cold_start", "reasoning_rl", "sft", "rl_for_all")  # those that end with a model


def run_r1(folder: Path, settings: LaptopSettings) -> dict[str, Any]:
    """Do every stage that is not done in `folder`, measure the models on both kinds of task, and report."""
    read_prices()  # a table that cannot be read is refused before the work, not after
    settings = in_words_of(settings)
    run = Run.open(folder, settings)
    make_models(run, until="cold_start")
    with ExitStack() as stack:
        graders = {task: stack.enter_context(Graders(task)) for task in (REASONING, QUICK, ALL)}
        sealed = {task: seal(graders[task], task, settings.evaluate) for task in (REASONING, QUICK)}
        asked = frozenset(identity_of(row) for rows in sealed.values() for row in rows)
        reinforced = partial(reinforce_on, run=run, sealed=asked)
        reinforced("reasoning_rl", start="cold_start", graders=graders[REASONING])
        run.stage("rejection", partial(reject, run=run, graders=graders, sealed=asked))
        run.stage("sft", partial(imitate, run=run))
        reinforced("rl_for_all", start="sft", graders=graders[ALL])
        run.stage("evaluate", partial(measure_stages, graders=graders, sealed=sealed, wanted=settings.evaluate))
    return report(run)


def reinforce_on(name: str, *, run: Run[LaptopSettings], start: str, graders: Graders, sealed: frozenset[str]) -> None:
    shared = {key: getattr(run.settings, key) for key in ("seed", "threads", "rl", "evaluate")}
    settings = TaskSettings(graders.source, run.folder / start / "model", **shared)
    run.stage(name, partial(learn, graders=graders, sealed=sealed, settings=settings))


def reject(
    folder: Path, meter: Meter, *, run: Run[LaptopSettings], graders: dict[str, Graders], sealed: frozenset[str]
) -> None:
    """Rejection sampling: replies with full marks to new problems, and as many turns answered without thought."""
    settings, model = run.settings, load_chat_model(run.folder / "reasoning_rl/model")
    wanted, seed, tokenizer = settings.distill, settings.seed, model.tokenizer
    first = settings.rl.steps * settings.rl.most_prompts  # behind what reinforcement learning has asked
    rows = graders[REASONING].rows(seed, first, wanted.num_prompts, without=sealed)
    prompts = [tokenizer.encode_chat(messages_of(row)) for row in rows]
    engine = Engine(model, prefix_cache=False, count=meter.add)
    params = SamplingParams(max_tokens=settings.rl.max_tokens)
    groups = sample_groups(engine, prompts, num_samples=wanted.num_samples, params=params, seed=seed)
    verdicts = grade(Environments(graders[REASONING], rows, wanted.num_samples), tokenizer, groups)
    rollouts = rollouts_of(groups, [[verdict.reward for verdict in group] for group in verdicts])
    kept = keep_correct(rollouts, min_reward=FULL_MARKS)
    log(f"rejection sampling: {len(kept)} of {len(rollouts)} replies have full marks")
    quick = graders[QUICK].rows(seed, first, len(kept), without=sealed)
    answers = graders[QUICK].oracle(quick)
    at_once = [
        Example(tokenizer.encode_chat(messages_of(row)), tokenizer.encode_reply(Message("assistant", answer)))
        for row, answer in zip(quick, answers, strict=True)
    ]
    write_traces(folder, 0, [*kept, *at_once])


def imitate(folder: Path, meter: Meter, *, run: Run[LaptopSettings]) -> None:
    """Fine-tune the base model, not the one that sampled, on what was kept: R1 began anew there, too."""
    examples, wanted = read_traces(run.folder / "rejection"), run.settings.distill.tune
    wanted = replace(wanted, steps=math.ceil(EPOCHS * len(examples) / wanted.batch_size))
    start = run.folder / "pretrain/model"
    fine_tune(folder, meter, start=start, examples=examples, wanted=wanted, seed=run.settings.seed)


def measure_stages(
    folder: Path, meter: Meter, *, graders: dict[str, Graders], sealed: dict[str, list[Row]], wanted: EvaluateSettings
) -> None:
    """What the model of every stage earns on either kind of task, a file each in the folder of its task."""
    for task, rows in sealed.items():
        (folder / task).mkdir(exist_ok=True)
        for stage in STAGES:
            model = folder.parent / stage / "model"
            summary = earned(meter, path=model, graders=graders[task], rows=rows, wanted=wanted)
            replace_text(folder / task / f"{stage}.json", json.dumps(summary, indent=2) + "\n")


def report(run: Run[LaptopSettings]) -> dict[str, Any]:
    """Print and write what every stage earns on both kinds of task, and the bill."""
    measured = {task: read_summaries(run.folder / "evaluate" / task, STAGES) for task in (REASONING, QUICK)}
    draw_curves(run.folder, read_curves(run.folder, *STAGES), evaluation={})
    bill = run.ledger.bill(read_prices())
    for task, summaries in measured.items():
        log(f"{task}, on sealed rows:")
        print_table(summaries)
    Console().print(bill.table())
    told = {"measured": measured, "bill": bill.as_dict(), "settings": as_dict(run.settings)}
    replace_text(run.folder / "report.json", json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    log(f"report: {run.folder / 'report.json'}; the model: {run.folder / 'rl_for_all/model'}")
    return told

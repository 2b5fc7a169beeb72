"""Reinforcement learning on a task of the user's: a model is measured on sealed rows, before and after.

seal → before → rl → after → report
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gorae.checkpoint import load_tokenizer
from gorae.config import as_dict
from gorae.engine import Engine, Output, SamplingParams
from gorae.evals import bootstrap_interval, draw_curves
from gorae.kernels import choose_device
from gorae.observe import Ledger, Meter, Watch, log, read_metrics, read_prices, replace_text
from gorae.posttrain import GrpoSettings, sample_groups
from gorae.recipes.reinforce import Questions, reinforce
from gorae.recipes.run import Run, load_chat_model, set_up_process
from gorae.recipes.settings import EvaluateSettings
from gorae.tasks import Graders, Reply, Row, Verdict, identity_of
from gorae.text import Message, Mode, Tokenizer, parse_reply

SEALED_SEED = 1 << 40  # rows to measure on are drawn from it, and no run learns from that seed
MOST_SEALED = 0.2  # of the rows of a list
MOST_DEAD, MOST_CLIPPED = 0.8, 0.3  # shares, beyond which something is said


@dataclass(frozen=True)
class TaskSettings:
    """task: what `load_task` reads; model: where to begin; device: where to compute, on a GPU if there is one and it is
    not said; the others as in the laptop recipe.
    """

    task: str
    model: Path
    seed: int = 0
    threads: int | None = None
    rl: GrpoSettings = field(default_factory=GrpoSettings)
    evaluate: EvaluateSettings = EvaluateSettings()
    device: str | None = None


def tune_on_task(folder: Path, settings: TaskSettings) -> dict[str, Any]:
    """Do every stage that is not done in `folder`, print and write the report, and return it; the model is in `rl`."""
    read_prices()  # a table that cannot be read is refused before the work, not after
    log(f"tune: on {choose_device(settings.device)}")
    run = Run.open(folder, settings)
    with Graders(settings.task) as graders:
        rows = seal(graders, settings.task, settings.evaluate)
        check_sealed(run.stage("sealed", partial(write_sealed, rows=rows)), rows, settings.task)
        measured = partial(measure, graders=graders, rows=rows, wanted=settings.evaluate, device=settings.device)
        tell_forecast(read_summary(run.stage("before", partial(measured, path=settings.model))), settings.rl)
        sealed = frozenset(map(identity_of, rows))
        run.stage("rl", partial(learn, graders=graders, sealed=sealed, settings=settings))
        run.stage("after", partial(measured, path=folder / "rl/model"))
    return report(run)


def seal(graders: Graders, task: str, wanted: EvaluateSettings) -> list[Row]:
    """The rows to measure on, no two of which ask the same; at most a fifth of a list."""
    available = graders.num_rows()
    count = wanted.items if available is None else min(wanted.items, int(MOST_SEALED * available))
    if not count:
        raise ValueError(f"{task} has {available} rows; five are the least, as a fifth is kept to measure on")
    return list({identity_of(row): row for row in graders.rows(SEALED_SEED, 0, count)}.values())


def write_sealed(folder: Path, _: Meter, *, rows: Sequence[Row]) -> None:
    replace_text(folder / "rows.json", json.dumps(listed(rows), indent=2, ensure_ascii=False) + "\n")


def check_sealed(folder: Path, rows: Sequence[Row], task: str) -> None:
    if json.loads((folder / "rows.json").read_text(encoding="utf-8")) != listed(rows):
        raise ValueError(f"{task} draws other rows than when {folder.parent} was begun; give another --out")


def listed(rows: Sequence[Row]) -> dict[str, Any]:
    """What rows ask, and the hash that names them."""
    asked = [identity_of(row) for row in rows]
    return {"sha256": hashlib.sha256("\n".join(asked).encode()).hexdigest(), "asked": asked}


def learn(folder: Path, meter: Meter, *, graders: Graders, sealed: frozenset[str], settings: TaskSettings) -> None:
    """Reinforcement learning on rows that are not sealed."""
    wanted, tokenizer = settings.rl, load_tokenizer(settings.model)
    assert tokenizer is not None, "a model without a tokenizer could not have been measured before"

    def ask(batch: int) -> Questions:
        rows = graders.rows(settings.seed, batch * wanted.most_prompts, wanted.most_prompts, without=sealed)
        return Questions([messages_of(row) for row in rows], partial(reward, rows=rows))

    def reward(groups: Sequence[Sequence[Output]], first: int, rows: Sequence[Row]) -> list[list[float | None]]:
        verdicts = grade(graders, tokenizer, rows[first : first + len(groups)], groups)
        if first == 0:  # a refill may be a single prompt
            require_some(verdicts)
        return [[verdict.reward for verdict in group] for group in verdicts]

    reinforce(folder, meter, start=settings.model, ask=ask, wanted=wanted, seed=settings.seed, device=settings.device)


def grade(
    graders: Graders, tokenizer: Tokenizer, rows: Sequence[Row], groups: Sequence[Sequence[Output]]
) -> list[list[Verdict]]:
    """A verdict on each reply."""
    replies = []
    for row, group in zip(rows, groups, strict=True):
        mode = tokenizer.encode_prompt(messages_of(row)).mode
        replies.append([read_reply(tokenizer, mode, output) for output in group])
    return graders.grade(rows, replies)


def require_some(verdicts: Sequence[Sequence[Verdict]]) -> None:
    """Raise ValueError if not one reply could be graded."""
    all_of_them = [verdict for group in verdicts for verdict in group]
    if all(verdict.reward is None for verdict in all_of_them):
        why = all_of_them[0].error or "no reward function applied"
        raise ValueError(f"not one of {len(all_of_them)} replies could be graded; the first: {why}")


def read_reply(tokenizer: Tokenizer, mode: Mode, output: Output) -> Reply:
    """What graders see of an output to a prompt that led to `mode`; one without a proper end has no content."""
    read = parse_reply(output.text, mode, tokenizer.chat_format)
    has_ended = read.complete and output.finish_reason == "stop"
    return Reply(output.text, read.content if has_ended else None, output.token_ids)


def messages_of(row: Row) -> list[Message]:
    prompt = row["prompt"]
    if isinstance(prompt, str):
        return [Message("user", prompt)]
    return [Message(message["role"], message["content"]) for message in prompt]


def evaluate_on_task(
    path: Path, task: str, wanted: EvaluateSettings, *, threads: int | None = None, device: str | None = None
) -> dict[str, Any]:
    """What any model earns on the rows of a task that runs seal, on no run's bill."""
    set_up_process(threads)
    with Graders(task) as graders, TemporaryDirectory() as folder, Ledger(folder).stage("evaluate") as meter:
        rows = seal(graders, task, wanted)
        return earned(meter, path=path, graders=graders, rows=rows, wanted=wanted, device=device)


def measure(folder: Path, meter: Meter, **named: Any) -> None:
    """Write what is `earned` to `summary.json`."""
    replace_text(folder / "summary.json", json.dumps(earned(meter, **named), indent=2) + "\n")


def earned(
    meter: Meter,
    *,
    path: Path,
    graders: Graders,
    rows: Sequence[Row],
    wanted: EvaluateSettings,
    device: str | None,
) -> dict[str, Any]:
    """What replies to rows earn, sampled at temperature 1 from fixed seeds."""
    model = load_chat_model(path, device=choose_device(device))
    engine = Engine(model, prefix_cache=False, count=meter.add)
    prompts = [model.tokenizer.encode_chat(messages_of(row)) for row in rows]
    params = SamplingParams(max_tokens=wanted.max_tokens)
    groups = sample_groups(engine, prompts, num_samples=wanted.samples, params=params, seed=0)
    verdicts = grade(graders, model.tokenizer, rows, groups)
    require_some(verdicts)
    return summarise(groups, verdicts)


def summarise(groups: Sequence[Sequence[Output]], verdicts: Sequence[Sequence[Verdict]]) -> dict[str, Any]:
    """Rewards with their bootstrap interval over rows, lengths, and what went wrong.

    `rewards` are those of each row's replies that could be graded.
    """
    rewards = [[one.reward for one in group if one.reward is not None] for group in verdicts]
    means = [mean(group) for group in rewards if group]
    outputs = [output for group in groups for output in group]
    errors = [one.error for group in verdicts for one in group if one.error]
    return {
        "reward": mean(means),
        "ci95": list(bootstrap_interval(means)),
        "mean_length": mean(len(output.token_ids) for output in outputs),
        "clipped_ratio": mean(output.finish_reason == "length" for output in outputs),
        "grader_errors": len(errors) / len(outputs),
        "first_error": errors[0] if errors else None,
        "rewards": rewards,
    }


def dead_groups(rewards: Sequence[Sequence[float]], num_samples: int) -> float:
    """The expected share of groups of `num_samples` replies that all earn the same, and so teach nothing."""
    return mean(
        sum((count / len(group)) ** num_samples for count in Counter(group).values()) for group in rewards if group
    )


def tell_forecast(before: dict[str, Any], wanted: GrpoSettings) -> None:
    """What reinforcement learning will find, before it is paid for."""
    dead = dead_groups(before["rewards"], wanted.num_samples)
    log(
        f"before: reward {before['reward']:.3f}, {before['mean_length']:.0f} tokens a reply, "
        f"{before['clipped_ratio']:.0%} cut off; {dead:.0%} of groups of {wanted.num_samples} will teach nothing"
    )
    if before["grader_errors"]:
        log(f"before: {before['grader_errors']:.1%} of replies could not be graded; the first: {before['first_error']}")
    if dead > MOST_DEAD:
        log("before: nearly all groups earn the same; make the task easier or harder, or raise rl.num_samples")
    if before["clipped_ratio"] > MOST_CLIPPED:
        log("before: many replies are cut off and earn what a reply without an end earns; raise rl.max_tokens")


def report(run: Run[TaskSettings]) -> dict[str, Any]:
    """Print and write what training changed, and what it cost."""
    measured = {name: read_summary(run.folder / name) for name in ("before", "after")}
    metrics = read_metrics(run.folder / "rl/metrics.jsonl")
    draw_curves(run.folder, {"rl": metrics}, evaluation={})
    watch = Watch()
    for record in metrics:
        watch.see(int(record["step"]), record)
    alarms = [f"{alarm.figure}, step {step}: {alarm.told}" for alarm, step in watch.rung.items()]
    bill = run.ledger.bill(read_prices())
    print_earned(measured)
    Console().print(bill.table())
    for alarm in alarms:
        log(f"alarm: {alarm}")
    told = {"measured": measured, "alarms": alarms, "bill": bill.as_dict(), "settings": as_dict(run.settings)}
    replace_text(run.folder / "report.json", json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    log(f"report: {run.folder / 'report.json'}; the model: {run.folder / 'rl/model'}")
    return told


def print_earned(measured: Mapping[str, dict[str, Any]]) -> None:
    """A line for each model, or state of one, by name."""
    layout: dict[str, Any] = {"title": "On sealed rows", "box": SIMPLE_HEAD, "pad_edge": False, "title_justify": "left"}
    table = Table("", "reward", "95%", "tokens a reply", "cut off", "not graded", **layout)
    for name, one in measured.items():
        low, high = one["ci95"]
        shares = (f"{one[share]:.1%}" for share in ("clipped_ratio", "grader_errors"))
        table.add_row(name, f"{one['reward']:.3f}", f"{low:.3f} to {high:.3f}", f"{one['mean_length']:.1f}", *shares)
    Console().print(table)


def read_summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))

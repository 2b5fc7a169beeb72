"""Reinforcement learning on a task of the user's: a model is measured on sealed rows, before and after.

seal → before → rl → after → report
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from statistics import mean, variance
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from rich.console import Console

from gorae.checkpoint import load_tokenizer
from gorae.config import as_dict
from gorae.engine import Engine, Output, SamplingParams
from gorae.evals import Evaluation, Sample, bootstrap_interval, consistency_of, draw_curves, print_table
from gorae.kernels import choose_device
from gorae.observe import Bill, Ledger, Meter, log, read_metrics, read_prices, replace_text, rung
from gorae.posttrain import CUT_OFF, Episode, GrpoSettings, World
from gorae.recipes.batches import Questions, sample_replies
from gorae.recipes.forecast import advise, as_plan, compare, plan, plan_table, take_pace
from gorae.recipes.reinforce import reinforce
from gorae.recipes.run import Run, load_chat_model, set_up_process
from gorae.recipes.settings import EvaluateSettings
from gorae.tasks import Environments, Graders, Reply, Row, Scene, Verdict, earns_full_marks, identity_of
from gorae.text import SCRIPTS, Message, Mode, Tokenizer, language_of, parse_reply

SEALED_SEED = 1 << 40  # rows to measure on are drawn from it, and no run learns from that seed
MOST_SEALED = 0.2  # of the rows of a list


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


def tune_on_task(folder: Path, settings: TaskSettings, *, only_plan: bool = False) -> dict[str, Any]:
    """Do every stage that is not done in `folder`, print and write the report, and return it; the model is in `rl`.

    With `only_plan`, end before anything is learnt, and return what was foretold.
    """
    read_prices()  # a table that cannot be read is refused before the work, not after
    log(f"tune: on {choose_device(settings.device)}")
    run = Run.open(folder, settings)
    with Graders(settings.task) as graders:
        rows = seal(graders, settings.task, settings.evaluate)
        check_sealed(run.stage("sealed", partial(write_sealed, rows=rows)), rows, settings.task)
        measured = partial(measure, graders=graders, rows=rows, wanted=settings.evaluate, device=settings.device)
        run.stage("before", partial(measured, path=settings.model))
        told = tell_forecast(run)
        if only_plan:
            return told
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
    wanted, tokenizer, tools = settings.rl, load_tokenizer(settings.model), graders.tools()
    assert tokenizer is not None, "a model without a tokenizer could not have been measured before"

    def ask(batch: int) -> Questions:
        rows = graders.rows(settings.seed, batch * wanted.most_prompts, wanted.most_prompts, without=sealed)
        environments = Environments(graders, rows, wanted.num_samples)
        world = None if tools is None else World(tools, environments.act)
        return Questions([messages_of(row) for row in rows], partial(reward, environments=environments), world)

    def reward(groups: Sequence[Sequence[Output]], first: int, environments: Environments) -> list[list[float | None]]:
        verdicts = grade(environments, tokenizer, groups, first=first)
        if first == 0:  # a refill may be a single prompt
            require_some(verdicts)
        return [[verdict.reward for verdict in group] for group in verdicts]

    reinforce(
        folder,
        meter,
        start=settings.model,
        ask=ask,
        wanted=wanted,
        seed=settings.seed,
        prefix_cache=tools is not None,
        device=settings.device,
    )


def grade(
    environments: Environments, tokenizer: Tokenizer, groups: Sequence[Sequence[Output]], *, first: int = 0
) -> list[list[Verdict]]:
    """A verdict on each reply to the rows from the first-th on."""
    rows = environments.rows[first : first + len(groups)]
    return environments.graders.grade(rows, read_replies(environments, tokenizer, groups, first=first))


def read_replies(
    environments: Environments, tokenizer: Tokenizer, groups: Sequence[Sequence[Output]], *, first: int = 0
) -> list[list[Reply]]:
    """What graders see of each output."""
    numbers = count(first * environments.num_samples)
    replies = []
    for place, group in enumerate(groups, start=first):
        mode = tokenizer.encode_prompt(messages_of(environments.rows[place])).mode
        replies.append([read_reply(tokenizer, mode, one, partial(environments.scene, next(numbers))) for one in group])
    return replies


def require_some(verdicts: Sequence[Sequence[Verdict]]) -> None:
    """Raise ValueError if not one reply could be graded."""
    all_of_them = [verdict for group in verdicts for verdict in group]
    if all(verdict.reward is None for verdict in all_of_them):
        why = all_of_them[0].error or "no reward function applied"
        raise ValueError(f"not one of {len(all_of_them)} replies could be graded; the first: {why}")


def read_reply(
    tokenizer: Tokenizer, mode: Mode, output: Output, scene_of: Callable[[Sequence[Message]], Scene]
) -> Reply:
    """What graders see of an output to a prompt that led to `mode`; one without a proper end has no content."""
    if isinstance(output, Episode):
        return Reply(output.text, output.content, output.token_ids, scene_of(output.turns), output.error)
    read = parse_reply(output.text, mode, tokenizer.chat_format)
    has_ended = read.complete and output.finish_reason == "stop"
    return Reply(output.text, read.content if has_ended else None, output.token_ids)


def messages_of(row: Row) -> list[Message]:
    prompt = row["prompt"]
    if isinstance(prompt, str):
        return [Message("user", prompt)]
    return [Message(message["role"], message["content"]) for message in prompt]


def evaluate_on_task(
    path: Path, task: str, wanted: EvaluateSettings, *, threads: int | None = None, every_row: bool = False
) -> dict[str, Any]:
    """What any model earns on the rows of a task that runs seal, or on every row of a list; on no run's bill."""
    set_up_process(threads)
    with Graders(task) as graders, TemporaryDirectory() as folder, Ledger(folder).stage("evaluate") as meter:
        rows = list_rows(graders, task) if every_row else seal(graders, task, wanted)
        return earned(meter, path=path, graders=graders, rows=rows, wanted=wanted, device=None)


def list_rows(graders: Graders, task: str) -> list[Row]:
    """All rows of a list, as a public suite is measured. Raises ValueError for a task that draws them without end."""
    available = graders.num_rows()
    if available is None:
        raise ValueError(f"{task} draws rows without end, so they can not all be measured on; give --evaluate.items")
    return graders.rows(SEALED_SEED, 0, available)


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
    device: str | None = "cpu",
) -> dict[str, Any]:
    """What replies to rows earn, sampled at temperature 1 from fixed seeds."""
    model = load_chat_model(path, device=choose_device(device))
    tools, environments = graders.tools(), Environments(graders, rows, wanted.samples)
    world = None if tools is None else World(tools, environments.act)
    engine = Engine(model, prefix_cache=world is not None, count=meter.add)
    params = SamplingParams(max_tokens=wanted.max_tokens)
    before = meter.spent
    options = {"num_samples": wanted.samples, "params": params, "seed": 0}
    groups = sample_replies(engine, list(map(messages_of, rows)), world, max_turns=wanted.max_turns, **options)
    after, began = meter.spent, monotonic()
    replies = read_replies(environments, model.tokenizer, groups)
    verdicts = graders.grade(rows, replies)
    seconds = monotonic() - began
    require_some(verdicts)
    outputs = [output for group in groups for output in group]
    pace = take_pace(model, outputs, meter, before=before, after=after, grading_seconds=seconds)
    return summarise(rows, groups, replies, verdicts) | {"pace": asdict(pace)}


def summarise(
    rows: Sequence[Row],
    groups: Sequence[Sequence[Output]],
    replies: Sequence[Sequence[Reply]],
    verdicts: Sequence[Sequence[Verdict]],
) -> dict[str, Any]:
    """What an evaluation holds, the rewards beside it, and what went wrong.

    Replies that could not be graded count nowhere but in lengths. `rewards` and `right` are row by row.
    """
    graded = [[place for place, one in enumerate(group) if one.reward is not None] for group in verdicts]
    rewards = [[group[place].reward or 0.0 for place in some] for group, some in zip(verdicts, graded, strict=True)]
    right = [[earns_full_marks(group[place]) for place in some] for group, some in zip(verdicts, graded, strict=True)]
    means = [mean(group) for group in rewards if group]
    outputs = [output for group in groups for output in group]
    errors = [one.error for group in verdicts for one in group if one.error]
    languages = [language_of_row(row) for row in rows]
    samples = [
        tuple(as_sample(group[place], output[place], verdict[place], language) for place in some)
        for group, output, verdict, language, some in zip(replies, groups, verdicts, languages, graded, strict=True)
    ]
    kept = [(language, some) for language, some in zip(languages, samples, strict=True) if some]
    return {
        **Evaluation(tuple(language for language, _ in kept), tuple(some for _, some in kept)).as_dict(),
        "items_sha256": listed(rows)["sha256"],
        "reward": mean(means),
        "reward_ci95": list(bootstrap_interval(means)),
        "reward_variance": mean([variance(group) for group in rewards if len(group) > 1] or [0.0]),
        "mean_length": mean(len(output.logprobs) for output in outputs),
        "clipped_ratio": mean(output.finish_reason in CUT_OFF for output in outputs),
        "grader_errors": len(errors) / len(outputs),
        "first_error": errors[0] if errors else None,
        "rewards": rewards,
        "right": right,
        "lengths": [len(output.logprobs) for output in outputs],
        "ended_lengths": [len(output.logprobs) for output in outputs if output.finish_reason == "stop"],
    }


def as_sample(reply: Reply, output: Output, verdict: Verdict, language: str | None) -> Sample:
    """A graded reply, whose content is its answer in a vote."""
    answer = (reply.content or "").strip() or None
    consistency = None if language is None else consistency_of(reply.text, language)
    return Sample(earns_full_marks(verdict), answer, len(output.logprobs), consistency)


def language_of_row(row: Row) -> str | None:
    """The one a row names in a column, else that of its prompt."""
    named = row.get("language")
    return named if named in SCRIPTS else language_of("\n".join(message.content for message in messages_of(row)))


def tell_forecast(run: Run[TaskSettings]) -> dict[str, Any]:
    """Say what reinforcement learning will find and take, before it is paid for, and what to change."""
    before, wanted = read_summary(run.folder / "before"), run.settings.rl
    planned = plan(before, wanted, run.ledger.spent("before"), read_prices())
    advice = list(advise(before, wanted))
    if before["grader_errors"]:
        advice.append(
            f"{before['grader_errors']:.1%} of replies could not be graded; the first: {before['first_error']}"
        )
    Console().print(plan_table(before, as_plan(planned)))
    for sentence in advice:
        log(f"advice: {sentence}")
    return {"planned": planned, "advice": advice, "alarms": []}


def report(run: Run[TaskSettings]) -> dict[str, Any]:
    """Print and write what training changed, and what it cost."""
    measured = {name: read_summary(run.folder / name) for name in ("before", "after")}
    metrics = read_metrics(run.folder / "rl/metrics.jsonl")
    draw_curves(run.folder, {"rl": metrics}, evaluation={})
    alarms = rung(metrics)
    bill = run.ledger.bill(read_prices())
    planned = plan(measured["before"], run.settings.rl, run.ledger.spent("before"), bill.prices)
    compared = compare(planned, actual(run, metrics, bill))
    print_table(measured)
    Console().print(plan_table(measured["before"], compared))
    Console().print(bill.table())
    for alarm in alarms:
        log(f"alarm: {alarm}")
    told = {"measured": measured, "planned_and_actual": compared, "alarms": alarms}
    told |= {"bill": bill.as_dict(), "settings": as_dict(run.settings)}
    replace_text(run.folder / "report.json", json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    log(f"report: {run.folder / 'report.json'}; the model: {run.folder / 'rl/model'}")
    return told


def actual(run: Run[TaskSettings], metrics: Sequence[dict[str, float]], bill: Bill) -> dict[str, float]:
    """What a plan foretold, as it came: of shares the mean over steps, of a step its part of the stage's time."""
    return {
        "seconds a step": run.ledger.spent("rl").wall_seconds / len(metrics),
        "FLOPs": bill.total.flops or 0.0,
        "price": bill.total.usd or 0.0,
        "groups that teach nothing": mean(one["frac_reward_zero_std"] for one in metrics),
        "replies cut off": mean(one["completions/clipped_ratio"] for one in metrics),
    }


def read_summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))

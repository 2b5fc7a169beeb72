"""A teacher's skill at a task of the user's, in a smaller model: measured on sealed rows, before and after.

seal → before → teacher → traces → distill → after → report. A teacher at an address is not measured, and on-policy
distillation has no traces.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from gorae.checkpoint import load_tokenizer
from gorae.client import ChatClient
from gorae.config import as_dict
from gorae.engine import Output
from gorae.evals import draw_curves, print_table
from gorae.observe import Meter, MetricsWriter, Watch, log, progress, read_metrics, read_prices, replace_text
from gorae.posttrain import (
    ApiSettings,
    ApiTeacher,
    Example,
    ModelTeacher,
    OnPolicySettings,
    Teacher,
    Trace,
    World,
    as_sampled,
    require_same_tokens,
    retold,
)
from gorae.recipes.batches import Questions
from gorae.recipes.compute import flops_of
from gorae.recipes.learn import fine_tune
from gorae.recipes.parity import is_address
from gorae.recipes.run import Run, load_chat_model
from gorae.recipes.settings import DistillSettings, EvaluateSettings
from gorae.recipes.task import (
    check_sealed,
    grade,
    measure,
    messages_of,
    read_summary,
    require_some,
    seal,
    write_sealed,
)
from gorae.recipes.teach import distil_from_logits, distil_on_policy
from gorae.tasks import Environments, Graders, Reply, Row, Verdict, identity_of
from gorae.text import Tokenizer

SOURCES = ("traces", "logits", "policy")
CHUNK = 128  # prompts that a teacher answers between two saves


@dataclass(frozen=True)
class TeachSettings(DistillSettings):
    """How a teacher answers and a student learns; replies are kept that earn `min_reward`.

    top_k: of the teacher's logits, beside a bucket for all others; 0 takes the whole vocabulary.
    """

    max_tokens: int = 52
    min_reward: float = 1.0
    top_k: int = 0
    on_policy: OnPolicySettings = OnPolicySettings()
    api: ApiSettings = ApiSettings()


@dataclass(frozen=True)
class TaskDistillSettings:
    """task: what `load_task` reads; teacher: a model, or an API's address; student: where to begin; source: traces,
    logits or policy.
    """

    task: str
    teacher: str
    student: Path
    source: str = "traces"
    seed: int = 0
    threads: int | None = None
    teach: TeachSettings = TeachSettings()
    evaluate: EvaluateSettings = EvaluateSettings()

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"source={self.source} must be one of {', '.join(SOURCES)}")
        if self.source != "traces" and is_address(self.teacher):
            raise ValueError(
                f"{self.teacher} is an address, which tells no logits of the whole vocabulary; distil from traces, or "
                "give a teacher that is at hand"
            )


def distil_on_task(folder: Path, settings: TaskDistillSettings, *, api_key: str | None = None) -> dict[str, Any]:
    """Do every stage that is not done in `folder`, print and write the report, and return it.

    The model is in `distill`. `api_key` is for a teacher at an address, and is written nowhere.
    """
    read_prices()  # a table that cannot be read is refused before the work, not after
    if settings.source != "traces":
        require_same_tokens(*(tokenizer_of(path) for path in (Path(settings.teacher), settings.student)))
    run = Run.open(folder, settings)
    with Graders(settings.task) as graders:
        if settings.source != "policy" and graders.tools() is not None:
            raise ValueError(
                f"{settings.task} has tools, and a trace is one reply to a question; distil from policy, where the "
                "student calls them"
            )
        rows = seal(graders, settings.task, settings.evaluate)
        check_sealed(run.stage("sealed", partial(write_sealed, rows=rows)), rows, settings.task)
        measured = partial(measure, graders=graders, rows=rows, wanted=settings.evaluate)
        run.stage("before", partial(measured, path=settings.student))
        if not is_address(settings.teacher):
            run.stage("teacher", partial(measured, path=Path(settings.teacher)))
        known = {"graders": graders, "sealed": frozenset(map(identity_of, rows)), "settings": settings}
        if settings.source != "policy":
            run.stage("traces", partial(gather, api_key=api_key, **known))
        run.stage("distill", partial(learn, **known))
        run.stage("after", partial(measured, path=folder / "distill/model"))
    return report(run)


def gather(
    folder: Path,
    meter: Meter,
    *,
    graders: Graders,
    sealed: frozenset[str],
    settings: TaskDistillSettings,
    api_key: str | None,
) -> None:
    """Let the teacher answer rows that are not sealed, and keep what is right in `traces-*.jsonl`, a file a chunk."""
    wanted, seed = settings.teach, settings.seed
    teacher = open_teacher(settings, meter, api_key)
    chunks = [(first, min(CHUNK, wanted.num_prompts - first)) for first in range(0, wanted.num_prompts, CHUNK)]
    done = len(list(folder.glob("traces-*.jsonl")))
    already = sum(count for _, count in chunks[:done])
    with (
        MetricsWriter(folder, name="metrics", resume_step=done) as metrics,
        progress(folder.name, wanted.num_prompts, done=already, unit="prompt") as bar,
    ):
        flops = flops_of(folder)
        for number, (first, count) in list(enumerate(chunks))[done:]:
            counted = meter.flops
            rows = graders.rows(seed, first, count, without=sealed)
            groups = teacher.answer(
                [messages_of(row) for row in rows],
                num_samples=wanted.num_samples,
                seed=seed * 1_000_000 + first,
                journal=folder / f"answers-{number:06}.jsonl",
            )
            verdicts = grade_traces(graders, rows, groups)
            kept = keep_right(groups, verdicts, min_reward=wanted.min_reward)
            flops += meter.flops - counted
            figures = figures_of(teacher, groups, verdicts, asked=count * wanted.num_samples)
            metrics.write(number, flops=flops, kept=len(kept) / (count * wanted.num_samples), **figures)
            # Last, since a chunk is done when its file is there.
            lines = [json.dumps(trace.as_dict(), ensure_ascii=False) + "\n" for trace in kept]
            replace_text(folder / f"traces-{number:06}.jsonl", "".join(lines))
            bar.advance(count, kept=len(kept), **figures)


def open_teacher(settings: TaskDistillSettings, meter: Meter, api_key: str | None) -> Teacher:
    wanted = settings.teach
    if not is_address(settings.teacher):
        return ModelTeacher(load_chat_model(Path(settings.teacher)), wanted.max_tokens, meter.add)
    client = ChatClient(settings.teacher, api_key)
    return ApiTeacher(client, wanted.api, max_tokens=wanted.max_tokens, count=meter.pay)


def grade_traces(graders: Graders, rows: Sequence[Row], groups: Sequence[Sequence[Trace]]) -> list[list[Verdict]]:
    verdicts = graders.grade(rows, [[Reply(one.text, one.content, one.reply_ids) for one in group] for group in groups])
    require_some(verdicts)
    return verdicts


def keep_right(
    groups: Sequence[Sequence[Trace]], verdicts: Sequence[Sequence[Verdict]], *, min_reward: float
) -> list[Trace]:
    """The replies with a proper end that earned at least `min_reward`, in the order they were asked for."""
    pairs = [pair for group, found in zip(groups, verdicts, strict=True) for pair in zip(group, found, strict=True)]
    return [
        trace
        for trace, verdict in pairs
        if trace.content is not None and verdict.reward is not None and verdict.reward >= min_reward
    ]


def figures_of(
    teacher: Teacher, groups: Sequence[Sequence[Trace]], verdicts: Sequence[Sequence[Verdict]], *, asked: int
) -> dict[str, float]:
    """What did not go well: replies that an address never gave, attempts that failed, replies no one could grade."""
    ungraded = sum(one.reward is None for group in verdicts for one in group)
    missing = asked - sum(map(len, groups))
    return {
        "completions/ungraded_ratio": ungraded / asked,
        **({"missing": missing, "errors": teacher.num_errors} if isinstance(teacher, ApiTeacher) else {}),
    }


def read_kept(folder: Path) -> list[Trace]:
    """The distinct traces that were kept. Raises ValueError if there are none."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("traces-*.jsonl"))]
    found = [Trace(**json.loads(line)) for text in texts for line in text.split("\n")[:-1]]
    traces = list({(json.dumps(one.conversation), one.text): one for one in found}.values())
    if not traces:
        raise ValueError(
            f"the teacher gave no right answer ({folder}); lower teach.min_reward if rewards are not of 0 and 1, raise "
            "teach.max_tokens if its replies were cut off, or take a better teacher"
        )
    return traces


def learn(
    folder: Path, meter: Meter, *, graders: Graders, sealed: frozenset[str], settings: TaskDistillSettings
) -> None:
    """Imitate the traces, learn from the teacher's logits on them, or from the teacher on replies of one's own."""
    wanted, tokenizer, tools = settings.teach, tokenizer_of(settings.student), graders.tools()

    def ask(batch: int) -> Questions:
        count = wanted.on_policy.num_prompts
        rows = graders.rows(settings.seed, batch * count, count, without=sealed)
        environments = Environments(graders, rows, 1)
        world = None if tools is None else World(tools, environments.act)
        return Questions([messages_of(row) for row in rows], partial(reward, environments=environments), world)

    def reward(groups: Sequence[Sequence[Output]], first: int, environments: Environments) -> list[list[float | None]]:
        verdicts = grade(environments, tokenizer, groups, first=first)
        return [[verdict.reward for verdict in group] for group in verdicts]

    shared: dict[str, Any] = {"start": settings.student, "seed": settings.seed}
    if settings.source == "policy":
        shared |= {"teacher": Path(settings.teacher), "prefix_cache": tools is not None}
        distil_on_policy(folder, meter, ask=ask, wanted=wanted.on_policy, **shared)
        return
    traces = read_kept(folder.parent / "traces")
    if settings.source == "logits":
        examples = fitting([as_sampled(one, tokenizer) for one in traces], settings.student, Path(settings.teacher))
        shared |= {"teacher": Path(settings.teacher), "top_k": wanted.top_k}
        distil_from_logits(folder, meter, examples=examples, wanted=wanted.tune, **shared)
        return
    examples = fitting([retold(one, tokenizer) for one in traces], settings.student)
    fine_tune(folder, meter, examples=examples, wanted=wanted.tune, **shared)


def fitting(examples: Sequence[Example], *models: Path) -> list[Example]:
    """The examples that fit into the positions of all models. Raises ValueError if none does."""
    most = min(load_chat_model(path).config.max_positions for path in models)
    kept = [one for one in examples if len(one.prompt_ids) + len(one.reply_ids) <= most]
    if len(kept) < len(examples):
        log(f"{len(examples) - len(kept)} of {len(examples)} traces are longer than {most} tokens and left out")
    if not kept:
        raise ValueError(f"all traces are longer than the {most} tokens that fit; lower teach.max_tokens")
    return kept


def tokenizer_of(path: Path) -> Tokenizer:
    tokenizer = load_tokenizer(path)
    if tokenizer is None:
        raise ValueError(f"{path} has no tokenizer, and nothing can be asked of it without; add tokenizer.json")
    return tokenizer


def report(run: Run[TaskDistillSettings]) -> dict[str, Any]:
    """Print and write what distillation changed, and what it cost."""
    names = [name for name in ("before", "after", "teacher") if (run.folder / name / "done").exists()]
    measured = {name: read_summary(run.folder / name) for name in names}
    metrics = read_metrics(run.folder / "distill/metrics.jsonl")
    draw_curves(run.folder, {"distill": metrics}, evaluation={})
    watch = Watch()
    for record in metrics:
        watch.see(int(record["step"]), record)
    alarms = [f"{alarm.figure}, step {step}: {alarm.told}" for alarm, step in watch.rung.items()]
    bill = run.ledger.bill(read_prices())
    print_table(measured)
    Console().print(bill.table())
    for alarm in alarms:
        log(f"alarm: {alarm}")
    if unpriced := run.ledger.spent("traces").unpriced_tokens:
        log(f"{unpriced:,} tokens have no known price, and the bill no total: give teach.api.prompt_usd and .reply_usd")
    told = {"measured": measured, "alarms": alarms, "bill": bill.as_dict(), "settings": as_dict(run.settings)}
    replace_text(run.folder / "report.json", json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    log(f"report: {run.folder / 'report.json'}; the model: {run.folder / 'distill/model'}")
    return told

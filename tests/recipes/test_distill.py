"""A teacher's skill at a task: from traces, from logits and on policy, measured on sealed rows, resumed, billed."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gorae.checkpoint import save_model
from gorae.config import override
from gorae.model import Network
from gorae.observe import Ledger, read_metrics
from gorae.posttrain import Example
from gorae.recipes import LaptopSettings, TaskDistillSettings, TuneSettings, distil_on_task, distill
from gorae.recipes.learn import fine_tune
from gorae.text import Message, Tokenizer
from gorae.train import OptimizerSettings

FAST = OptimizerSettings(lr=1e-2, matrix_lr=None)
SHORT = {
    "teach.num_prompts": "20",
    "teach.num_samples": "3",
    "teach.max_tokens": "6",
    "teach.tune.steps": "25",
    "teach.tune.batch_size": "8",
    "teach.tune.optimizer.lr": "1e-2",
    "teach.on_policy.steps": "40",
    "teach.on_policy.num_prompts": "8",
    "teach.on_policy.max_tokens": "6",
    "teach.on_policy.optimizer.lr": "1e-2",
    "evaluate.items": "8",
    "evaluate.samples": "4",
    "evaluate.max_tokens": "6",
}
SOURCE = """
from random import Random

def rows(seed):
    random = Random(seed)
    while True:
        yield {"prompt": f"계수기 {random.randrange(40)}", "answer": "7"}

def reward(contents, prompts):
    open(__file__ + ".seen", "a").write("".join(prompt + "\\n" for prompt in prompts))
    return [float(content == "7") for content in contents]
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory, tokenizer) -> Path:
    """A teacher that mostly says 7, or 8; a student that knows nothing, and another that reads other tokens."""
    folder = tmp_path_factory.mktemp("models")
    config = replace(LaptopSettings().student, vocab_size=300)
    other = Tokenizer.train(["whales and sharks sing 0123456789"] * 9, vocab_size=280)
    save_model(folder / "student", Network(config, seed=0), tokenizer=tokenizer)
    save_model(folder / "stranger", Network(replace(config, vocab_size=other.vocab_size), seed=0), tokenizer=other)
    prompts = [tokenizer.encode_chat([Message("user", f"계수기 {number}")]) for number in range(40)]
    replies = [tokenizer.encode_reply(Message("assistant", answer)) for answer in "7778"]
    examples = [Example(prompt, replies[place % 4]) for place, prompt in enumerate(prompts)]
    wanted = TuneSettings(steps=30, batch_size=16, optimizer=FAST)
    (folder / "work").mkdir()
    with Ledger(folder / "bill").stage("work") as meter:
        fine_tune(folder / "work", meter, start=folder / "student", examples=examples, wanted=wanted, seed=0)
    return folder


@pytest.fixture
def wanted(tmp_path, models, monkeypatch):
    """Settings of a short run on a task written there and then; a teacher answers eight prompts between two saves."""
    monkeypatch.setattr(distill, "CHUNK", 8)
    monkeypatch.setattr("gorae.posttrain.teacher.FIRST_PAUSE_SECONDS", 0.001)
    (tmp_path / "mine.py").write_text(SOURCE, encoding="utf-8")

    def settings(source: str = "traces", changes: dict[str, str] | None = None, **more) -> TaskDistillSettings:
        given = {"teacher": str(models / "work/model"), "student": models / "student", "source": source} | more
        return override(TaskDistillSettings(str(tmp_path / "mine.py"), **given), SHORT | (changes or {}))

    return settings


def seen(folder: Path) -> list[str]:
    return (folder / "mine.py.seen").read_text(encoding="utf-8").splitlines()


def sealed(run: Path) -> set[str]:
    return set(map(json.loads, json.loads((run / "sealed/rows.json").read_text(encoding="utf-8"))["asked"]))


@pytest.mark.parametrize("source", ["traces", "logits", "policy"])
def test_a_student_learns_its_teachers_skill_on_rows_that_are_not_sealed(wanted, tmp_path, source):
    told = distil_on_task(tmp_path / "run", wanted(source))
    before, after, teacher = (told["measured"][name]["reward"] for name in ("before", "after", "teacher"))
    assert before < 0.1
    assert after > 0.4
    assert 0.5 < teacher < 1
    own = sealed(tmp_path / "run")
    assert own.isdisjoint(seen(tmp_path)[2 * 4 * len(own) : -4 * len(own)])
    stages = {stage["stage"]: stage for stage in told["bill"]["stages"]}
    assert ("traces" in stages) == (source != "policy")
    assert stages["distill"]["flops"] > 0
    assert json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8"))["measured"] == told["measured"]


def test_only_right_answers_are_kept_and_every_prompt_was_asked(wanted, tmp_path):
    distil_on_task(tmp_path / "run", wanted())
    traces = distill.read_kept(tmp_path / "run/traces")
    assert {trace.content for trace in traces} == {"7"}
    assert len({trace.conversation[0]["content"] for trace in traces}) == len(traces), "each said the same thrice"
    lines = read_metrics(tmp_path / "run/traces/metrics.jsonl")
    assert len(lines) == 3
    assert all(0 < line["kept"] < 1 for line in lines)


def test_a_student_with_other_tokens_learns_from_traces_alone(wanted, tmp_path, models):
    stranger = models / "stranger"
    told = distil_on_task(tmp_path / "run", wanted(student=stranger))
    assert told["measured"]["after"]["reward"] > 0.4 > 0.1 > told["measured"]["before"]["reward"]
    for source in ("logits", "policy"):
        with pytest.raises(ValueError, match=r"token \d+ is '.*' to the teacher and '.*' to the student"):
            distil_on_task(tmp_path / source, wanted(source, student=stranger))
        assert not (tmp_path / source).exists(), "before anything is measured"


def test_a_run_that_was_stopped_goes_on_and_makes_the_same_model(wanted, tmp_path, monkeypatch):
    few = wanted("traces", {"teach.tune.steps": "3"})
    distil_on_task(tmp_path / "whole", few)
    made, calls = distill.keep_right, []

    def stopping(*words, **named):
        calls.append(words)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return made(*words, **named)

    with monkeypatch.context() as patch:
        patch.setattr(distill, "keep_right", stopping)
        with pytest.raises(KeyboardInterrupt):
            distil_on_task(tmp_path / "stopped", few)
    distil_on_task(tmp_path / "stopped", few)
    for file in ("distill/model/model.safetensors", "traces/traces-000001.jsonl"):
        one, other = (tmp_path / name / file for name in ("whole", "stopped"))
        assert one.read_bytes() == other.read_bytes()


@contextmanager
def api(answer: str = "7") -> Iterator[tuple[str, list[str | None]]]:
    """The address of an API that says one thing to all, now and then only at the second time; and the keys it got."""
    keys: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            keys.append(self.headers.get("authorization"))
            message = {"role": "assistant", "content": answer, "reasoning_content": "계수기"}
            usage = {"prompt_tokens": 10, "completion_tokens": 20}
            is_busy = len(keys) % 5 == 0
            self.send_response(503 if is_busy else 200)
            self.end_headers()
            choices = [{"message": message, "finish_reason": "stop"}]
            self.wfile.write(json.dumps({"choices": choices, "usage": usage}).encode())

        def log_message(self, format: str, *args) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", keys
        finally:
            server.shutdown()


def test_an_api_teaches_by_its_reasoning_and_is_paid_what_is_known(wanted, tmp_path):
    with api() as (url, keys):
        priced = {
            "teach.api.model": "whale",
            "teach.api.prompt_usd": "1",
            "teach.api.reply_usd": "2",
            "evaluate.max_tokens": "16",
        }
        told = distil_on_task(tmp_path / "run", wanted(changes=priced, teacher=url), api_key="secret")
    assert "teacher" not in told["measured"], "that would cost money"
    assert set(keys) == {"Bearer secret"}
    traces = next(stage for stage in told["bill"]["stages"] if stage["stage"] == "traces")
    assert traces["tokens"] == 60 * 30
    assert traces["usd"] >= 60 * (10 * 1 + 20 * 2) / 1e6
    assert told["measured"]["after"]["reward"] > told["measured"]["before"]["reward"]
    assert {one.reasoning for one in distill.read_kept(tmp_path / "run/traces")} == {"계수기"}
    assert sum(line["errors"] for line in read_metrics(tmp_path / "run/traces/metrics.jsonl")) > 0
    assert not [path for path in (tmp_path / "run").rglob("*.json*") if "secret" in path.read_text()]


def test_a_bill_with_a_price_that_is_not_known_has_no_total_and_says_so(wanted, tmp_path, capsys):
    few = {"teach.api.model": "whale", "teach.num_prompts": "1", "teach.num_samples": "1", "teach.tune.steps": "1"}
    with api() as (url, _):
        told = distil_on_task(tmp_path / "run", wanted(changes=few, teacher=url))
    assert told["bill"]["total"]["usd"] is None
    assert "30 tokens have no known price" in capsys.readouterr().err


def test_how_an_api_is_asked_may_change_in_the_middle_of_a_run(wanted, tmp_path):
    few = {"teach.api.model": "whale", "teach.num_prompts": "1", "teach.num_samples": "1", "teach.tune.steps": "1"}
    with api() as (url, _):
        distil_on_task(tmp_path / "run", wanted(changes=few, teacher=url))
        distil_on_task(tmp_path / "run", wanted(changes=few | {"teach.api.parallel": "1"}, teacher=url))
        with pytest.raises(ValueError, match=r"was begun with teach\.num_samples"):
            distil_on_task(tmp_path / "run", wanted(changes=few | {"teach.num_samples": "2"}, teacher=url))


def test_what_can_not_be_is_refused_before_the_work(wanted):
    with pytest.raises(ValueError, match="source=dreams must be one of traces, logits, policy"):
        wanted("dreams")
    with pytest.raises(ValueError, match="http://there/v1 is an address, which tells no logits of the whole vocab"):
        wanted("policy", teacher="http://there/v1")


def test_a_task_with_tools_has_no_traces(wanted, tmp_path):
    settings = wanted()
    tools = "class Safe:\n def reset(self): pass\n def turn(self, code: int):\n  'Try.'\n\nenvironment_factory = Safe\n"
    (tmp_path / "mine.py").write_text(SOURCE + tools, encoding="utf-8")
    for source in ("traces", "logits"):
        with pytest.raises(ValueError, match=r"mine\.py has tools, and a trace is one reply .* distil from policy"):
            distil_on_task(tmp_path / source, replace(settings, source=source))


def test_a_teacher_that_is_never_right_is_an_error_that_says_what_to_do(wanted, tmp_path):
    with api("8") as (url, _), pytest.raises(ValueError, match=re.escape("the teacher gave no right answer")):
        distil_on_task(tmp_path / "run", wanted(changes={"teach.api.model": "whale"}, teacher=url))


def test_traces_that_do_not_fit_are_left_out_and_told(models, capsys):
    short, long = Example([1] * 10, [2] * 5), Example([1] * 1000, [2] * 25)
    assert distill.fitting([short, long], models / "student") == [short]
    assert "1 of 2 traces are longer than 1024 tokens and left out" in capsys.readouterr().err
    with pytest.raises(ValueError, match="all traces are longer than the 1024 tokens that fit"):
        distill.fitting([long], models / "student")

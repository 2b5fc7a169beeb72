"""One tiny run of the whole recipe, made verb by verb, that every test here looks at.

A model trained for four steps answers nothing, so its rewards are thrown by the first token of each reply instead of
earned: otherwise reinforcement learning would have nothing to reinforce and distillation nothing to imitate. All else
is the recipe as it is, in small.
"""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from gorae.cli import main
from gorae.engine import Output
from gorae.recipes import learn
from gorae.tasks import Problem

TINY = {
    "threads": 1,
    "prepare.vocab_size": 320,
    "prepare.num_problems": 120,
    "prepare.row_length": 64,
    "prepare.max_text_bytes": 100_000,
    "pretrain.steps": 4,
    "pretrain.batch_rows": 4,
    "student_pretrain.steps": 3,
    "student_pretrain.batch_rows": 4,
    "cold_start.steps": 3,
    "cold_start.batch_size": 4,
    "cold_start.num_examples": 20,
    "rl.steps": 3,
    "rl.num_prompts": 2,
    "rl.num_samples": 4,
    "rl.max_tokens": 12,
    "distill.num_prompts": 6,
    "distill.tune.steps": 3,
    "distill.tune.batch_size": 4,
    "evaluate.items": 3,
    "evaluate.samples": 16,
    "evaluate.max_tokens": 8,
}


def reward_by_first_token(_: Problem, output: Output) -> float:
    return float(output.token_ids[0] % 2)


@contextmanager
def rewards_by_first_token() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learn, "reward_by_grade", reward_by_first_token)
        patch.setitem(learn.reinforce_on_counter.__kwdefaults__, "grade", reward_by_first_token)
        yield


@dataclass
class TinyRun:
    """The run folder, what it was made with, what was printed, and which stages were done after each verb."""

    folder: Path
    flags: list[str]
    printed: str = ""
    stages_after: dict[str, set[str]] = field(default_factory=dict)

    @property
    def report(self) -> dict:
        return json.loads((self.folder / "report.json").read_text(encoding="utf-8"))

    def model(self, stage: str) -> Path:
        return self.folder / stage / "model"


@dataclass(frozen=True)
class Called:
    """A command line's status and what it printed."""

    status: int
    out: str
    err: str


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What looks at the one tiny run stays in one process, which makes it once."""
    for item in items:
        if "tiny" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("tiny"))


@pytest.fixture(scope="session")
def gorae() -> Callable[..., Called]:
    """Run a command line of `gorae` in this process, with rewards by first token and threads put back after."""

    def gorae(*argv: object) -> Called:
        before, out, err = torch.get_num_threads(), io.StringIO(), io.StringIO()
        try:
            with rewards_by_first_token(), redirect_stdout(out), redirect_stderr(err):
                status = main([str(word) for word in argv])
        finally:
            torch.set_num_threads(before)
        return Called(status, out.getvalue(), err.getvalue())

    return gorae


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory) -> Path:
    """What a user might have: text, Markdown and chats, about 30 kB of it, and a file that is none of these."""
    folder = tmp_path_factory.mktemp("text")
    for number in range(12):
        whales = [
            f"Whale {number}-{place} sings {place * number % 97} songs. 고래 {place}. 鲸 {number}。"
            for place in range(40)
        ]
        (folder / f"{number}.txt").write_text("\n".join(whales), encoding="utf-8")
    (folder / "notes.md").write_text("# Notes\n\nNothing but whales.\n", encoding="utf-8")
    chat = {"messages": [{"role": "user", "content": "Who sings?"}, {"role": "assistant", "content": "The whale."}]}
    (folder / "chats.jsonl").write_text(
        json.dumps(chat) + "\n" + json.dumps({"text": "plain"}) + "\n", encoding="utf-8"
    )
    (folder / "picture.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture(scope="session")
def tiny_flags(text_folder) -> list[str]:
    flags = [word for key, value in TINY.items() for word in (f"--{key}", str(value))]
    return ["--data", str(text_folder), *flags]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, gorae, tiny_flags) -> TinyRun:
    run = TinyRun(tmp_path_factory.mktemp("tiny") / "run", tiny_flags)
    verbs = {verb: (verb,) for verb in ("prepare", "train", "tune", "distill")} | {
        "run": ("run", "laptop", "--no-serve")
    }
    for verb, words in verbs.items():
        called = gorae(*words, "--out", run.folder, *tiny_flags)
        assert called.status == 0, called.err
        run.printed += called.out + called.err
        run.stages_after[verb] = {path.parent.name for path in run.folder.glob("*/done")}
    return run


@pytest.fixture(scope="session")
def served(tiny) -> Iterator[str]:
    """The address of the tiny run's model, served by `gorae serve` in a process of its own."""
    command = [sys.executable, "-m", "gorae.cli", "serve", str(tiny.model("rl")), "--serve.port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"serving (\S+) at (http://\S+) until Ctrl-C", line)
        assert found, line + process.stderr.read()
        yield found.group(2)
        process.terminate()

"""`gorae run r1` in small: every stage of R1, in order, and a model that serves."""

import json

import pytest

from gorae.checkpoint import load
from gorae.recipes import r1
from gorae.recipes.learn import read_traces
from gorae.recipes.task import SEALED_SEED
from gorae.tasks import Graders


@pytest.fixture(scope="module")
def run(tmp_path_factory, gorae, tiny_flags):
    folder = tmp_path_factory.mktemp("r1") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(r1, "FULL_MARKS", -1.0)  # a model trained for four steps earns nothing
        called = gorae("run", "r1", "--no-serve", "--out", folder, *tiny_flags)
    assert called.status == 0, called.err
    return folder


def test_every_stage_of_r1_is_done_and_measured_on_both_kinds_of_task(run):
    order = ["cold_start", "reasoning_rl", "rejection", "sft", "rl_for_all"]
    ended = [(run / stage / "done").stat().st_mtime_ns for stage in order]
    assert ended == sorted(ended)
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert report["measured"].keys() == {r1.REASONING, r1.QUICK}
    assert all(list(summaries) == list(r1.STAGES) for summaries in report["measured"].values())
    assert load(run / "rl_for_all/model").tokenizer is not None


def test_what_is_imitated_is_half_thought_and_half_at_once_and_twice_over(run):
    examples = read_traces(run / "rejection")
    tokenizer = load(run / "sft/model").tokenizer
    at_once = [one for one in examples if tokenizer.decode(one.reply_ids).startswith("</think>")]
    assert len(at_once) >= len(examples) / 2
    num_steps = len((run / "sft/metrics.jsonl").read_text().splitlines())
    assert num_steps == -(-2 * len(examples) // 4)


def test_nothing_sealed_is_learnt_from(run):
    examples = read_traces(run / "rejection")
    tokenizer = load(run / "sft/model").tokenizer
    asked = {tokenizer.decode(one.prompt_ids) for one in examples}
    for task in (r1.REASONING, r1.QUICK):
        with Graders(task) as graders:
            for row in graders.rows(SEALED_SEED, 0, 3):
                assert not any(row["prompt"] in prompt for prompt in asked)

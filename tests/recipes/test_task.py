"""A task of the user's: sealed rows are measured, never learnt from; what can not be graded is no reward of 0."""

import json
import re
from pathlib import Path

import pytest

from gorae.checkpoint import save_model
from gorae.cli import main
from gorae.config import override
from gorae.engine import Output
from gorae.observe import read_metrics
from gorae.recipes import TaskSettings, task, tune_on_task
from gorae.tasks import protections

SHORT = {
    "rl.steps": "2",
    "rl.num_prompts": "3",
    "rl.num_samples": "4",
    "rl.max_tokens": "5",
    "evaluate.items": "6",
    "evaluate.samples": "3",
    "evaluate.max_tokens": "5",
}
SOURCE = """
from random import Random

def rows(seed):
    random = Random(seed)
    while True:
        yield {"prompt": f"계수기 {random.randrange(12)}", "answer": "7"}

def reward(completions, prompts):
    open(__file__ + ".seen", "a").write("".join(prompt + "\\n" for prompt in prompts))
    return [len(set(text)) / 9 for text in completions]
"""


@pytest.fixture
def wanted(tmp_path, network, tokenizer):
    """Settings of a short run on a task written there and then."""
    save_model(tmp_path / "model", network, tokenizer=tokenizer)

    def settings(source: str, name: str = "mine.py") -> TaskSettings:
        (tmp_path / name).write_text(source, encoding="utf-8")
        return override(TaskSettings(str(tmp_path / name), tmp_path / "model"), SHORT)

    return settings


def seen(settings: TaskSettings) -> list[str]:
    return Path(settings.task + ".seen").read_text(encoding="utf-8").splitlines()


def test_a_model_is_measured_on_sealed_rows_learns_from_others_and_is_measured_again(wanted, tmp_path):
    settings = wanted(SOURCE)
    told = tune_on_task(tmp_path / "run", settings)
    sealed = json.loads((tmp_path / "run/sealed/rows.json").read_text(encoding="utf-8"))["asked"]
    sealed = {json.loads(one) for one in sealed}
    in_training = seen(settings)[3 * len(sealed) : -3 * len(sealed)]
    assert len(in_training) == 2 * 3 * 4
    assert not sealed & set(in_training)
    assert set(seen(settings)) - set(in_training) == sealed
    assert [len(told["measured"][name]["rewards"]) for name in ("before", "after")] == [len(sealed)] * 2
    assert 0 < told["measured"]["before"]["reward"] < 1
    assert {"rl", "before", "after"} <= {stage["stage"] for stage in told["bill"]["stages"]}
    assert (tmp_path / "run/rl/model/config.json").is_file()
    assert json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8"))["measured"] == told["measured"]


def test_a_run_that_was_stopped_goes_on_and_makes_the_same_model(wanted, tmp_path, monkeypatch):
    settings = wanted(SOURCE)
    tune_on_task(tmp_path / "whole", settings)
    with monkeypatch.context() as patch:
        patch.setattr(task, "report", lambda run: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tune_on_task(tmp_path / "stopped", settings)
    tune_on_task(tmp_path / "stopped", settings)
    one, other = (tmp_path / name / "rl/model/model.safetensors" for name in ("whole", "stopped"))
    assert one.read_bytes() == other.read_bytes()


def test_another_task_under_the_same_name_is_not_taken_for_the_one_that_was_begun(wanted, tmp_path):
    tune_on_task(tmp_path / "run", wanted(SOURCE))
    with pytest.raises(ValueError, match=r"mine\.py draws other rows than when .*run was begun; give another --out"):
        tune_on_task(tmp_path / "run", wanted(SOURCE.replace("계수기", "counter")))


def test_replies_that_can_not_be_graded_are_counted_and_earn_nothing_at_all(wanted, tmp_path, capsys):
    source = SOURCE.replace("    return", "    assert not any(len(text) % 3 == 0 for text in completions)\n    return")
    told = tune_on_task(tmp_path / "run", wanted(source))
    before = told["measured"]["before"]
    assert 0 < before["grader_errors"] < 1
    assert "AssertionError" in before["first_error"]
    assert sum(map(len, before["rewards"])) < 3 * len(before["rewards"])
    assert "of replies could not be graded; the first: AssertionError" in " ".join(capsys.readouterr().err.split())


def test_a_grader_that_fails_on_every_reply_ends_the_run_with_its_error(wanted, tmp_path):
    with pytest.raises(ValueError, match=r"not one of \d+ replies could be graded; the first: ZeroDivisionError"):
        tune_on_task(tmp_path / "run", wanted(SOURCE.replace("len(set(text)) / 9", "1 / 0")))


def test_a_list_gives_a_fifth_of_its_rows_to_measure_on(wanted, tmp_path):
    rows = [{"prompt": f"{number}", "answer": "1"} for number in range(15)]
    settings = wanted("\n".join(map(json.dumps, rows)), "rows.jsonl")
    tune_on_task(tmp_path / "run", settings)
    assert len(json.loads((tmp_path / "run/sealed/rows.json").read_text(encoding="utf-8"))["asked"]) == 3
    few = wanted('{"prompt": "p", "answer": "1"}', "few.jsonl")
    with pytest.raises(ValueError, match=r"few\.jsonl has 1 rows; five are the least"):
        tune_on_task(tmp_path / "other", few)


def test_a_model_is_measured_on_a_task_as_a_run_measures_it(wanted, tmp_path):
    settings = wanted(SOURCE)
    told = tune_on_task(tmp_path / "run", settings)
    measured, before = (
        task.evaluate_on_task(settings.model, settings.task, settings.evaluate),
        told["measured"]["before"],
    )
    assert measured.pop("pace").keys() == before.pop("pace").keys()
    assert measured == before


def test_a_plan_ends_before_anything_is_learnt_and_the_same_run_goes_on_and_compares(wanted, tmp_path, capsys):
    settings = wanted(SOURCE)
    told = tune_on_task(tmp_path / "run", settings, only_plan=True)
    assert not (tmp_path / "run/rl").exists()
    assert "Forecast" in (printed := capsys.readouterr()).out
    assert all(f"advice: {sentence.split()[0]}" in printed.err for sentence in told["advice"])
    compared = tune_on_task(tmp_path / "run", settings)["planned_and_actual"]
    assert {name: one["planned"] for name, one in compared.items()} == told["planned"]
    assert compared["FLOPs"]["ratio"] == pytest.approx(1, rel=0.35), "counted, not timed"
    assert compared["groups that teach nothing"]["actual"] <= 1
    assert all(one["actual"] is not None for one in compared.values())
    assert "Planned and actual" in capsys.readouterr().out


SUITES = {
    "math500": ({"problem": "Add {n} and 1.", "answer": "{m}"}, "\\boxed{{{m}}}"),
    "aime": ({"ID": "2024-I-{n}", "problem": "Add {n} and 1.", "answer": "{m}"}, "{m}"),
    "gsm8k": ({"question": "Mina has {n} and gets one more.", "answer": "{n}+1={m}\n#### {m}"}, "She has {m}."),
    "humaneval": (
        {
            "task_id": "HumanEval/{n}",
            "prompt": "def add_{n}(x):\n",
            "canonical_solution": "    return x + {n}\n",
            "test": "def check(candidate):\n    assert candidate(1) == {m}\n",
            "entry_point": "add_{n}",
        },
        "```python\ndef add_{n}(x):\n    return x + {n}\n```",
    ),
}


@pytest.mark.parametrize("name", SUITES)
def test_a_file_of_a_public_suite_is_evaluated_from_end_to_end(wanted, tmp_path, monkeypatch, capsys, name):
    if name == "humaneval" and not protections().enough:
        pytest.skip("programs can not be run safely here")
    row, right = SUITES[name]
    rows = [{key: told.format(n=n, m=n + 1) for key, told in row.items()} for n in range(3)]
    settings = wanted("\n".join(map(json.dumps, rows)), f"{name}.jsonl")
    asked = []

    def answer(engine, prompts, *, num_samples, params, seed):
        """The first reply to each of the first two prompts is right, and so is nothing else."""
        numbers = [int(re.findall(r"\d+", engine.tokenizer.decode(prompt))[0]) for prompt in prompts]
        asked.extend(numbers)
        said = [[right.format(n=n, m=n + 1)] + ["no idea"] * (num_samples - 1) for n in numbers]
        said[2][0] = "no idea"
        prompt_ids = [1, 2, 3]
        return [
            [Output([4] * len(text), f"</think>{text}", [0.0] * len(text), "stop", prompt_ids) for text in texts]
            for texts in said
        ]

    monkeypatch.setattr("gorae.recipes.batches.sample_groups", answer)
    words = ["evaluate", str(settings.model), "--task", settings.task, "--all", "--json", str(tmp_path / "told.json")]
    assert main([*words, "--evaluate.samples", "4"]) == 0
    assert sorted(asked) == [0, 1, 2]
    summary = json.loads((tmp_path / "told.json").read_text(encoding="utf-8"))["summary"]
    assert summary["pass_at_1"] == pytest.approx(2 / 12)
    assert summary["pass_at_k"] == {"1": pytest.approx(2 / 12), "2": pytest.approx(1 / 3), "4": pytest.approx(2 / 3)}
    assert (summary["majority_at_4"], summary["items"], summary["grader_errors"]) == (0, 3, 0)
    printed = capsys.readouterr().out
    assert f"3 items, SHA-256 {summary['items_sha256']}" in printed
    assert max(map(len, printed.splitlines())) <= 100


def test_of_rows_without_end_not_all_are_measured_on(wanted):
    settings = wanted(SOURCE)
    with pytest.raises(ValueError, match=r"draws rows without end, .*give --evaluate\.items"):
        task.evaluate_on_task(settings.model, settings.task, settings.evaluate, every_row=True)


def test_rewards_that_never_apply_are_no_measurement(wanted):
    settings = wanted(SOURCE.replace("len(set(text)) / 9", "None"))
    with pytest.raises(
        ValueError, match=r"not one of \d+ replies could be graded; the first: no reward function applied"
    ):
        task.evaluate_on_task(settings.model, settings.task, settings.evaluate)


def test_a_batch_is_refilled_with_further_rows_in_place_of_those_whose_replies_all_earned_the_same(wanted, tmp_path):
    source = SOURCE.replace("return [len(set(text)) / 9", "return [int(prompts[0][-1]) % 2 * len(set(text)) / 9")
    settings = override(wanted(source), {"rl.num_refills": "3", "rl.exclude_dead_groups": "true"})
    tune_on_task(tmp_path / "run", settings)
    sealed = json.loads((tmp_path / "run/sealed/rows.json").read_text(encoding="utf-8"))["asked"]
    in_training = seen(settings)[3 * len(sealed) : -3 * len(sealed)]
    batches = [line["num_prompts"] for line in read_metrics(tmp_path / "run/rl/metrics.jsonl")]
    assert len(in_training) == 4 * sum(batches), "graded by their own row, four replies each"
    assert all(len(set(in_training[start : start + 4])) == 1 for start in range(0, len(in_training), 4))
    assert 3 < max(batches) <= 12

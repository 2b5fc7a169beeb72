"""A task of the user's: sealed rows are measured, never learnt from; what can not be graded is no reward of 0."""

import json
from pathlib import Path

import pytest

from gorae.checkpoint import save_model
from gorae.config import override
from gorae.observe import read_metrics
from gorae.recipes import TaskSettings, task, tune_on_task

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
    assert "of replies could not be graded; the first: AssertionError" in capsys.readouterr().err


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
    assert task.evaluate_on_task(settings.model, settings.task, settings.evaluate) == told["measured"]["before"]


def test_rewards_that_never_apply_are_no_measurement(wanted):
    settings = wanted(SOURCE.replace("len(set(text)) / 9", "None"))
    with pytest.raises(
        ValueError, match=r"not one of \d+ replies could be graded; the first: no reward function applied"
    ):
        task.evaluate_on_task(settings.model, settings.task, settings.evaluate)


@pytest.mark.parametrize(
    ("rewards", "num_samples", "expected"),
    [
        ([[0.0, 0.0]], 4, 1.0),
        ([[0.0, 1.0]], 4, 2 / 16),
        ([[1.0, 1.0], [0.0, 1.0]], 2, 0.75),
        ([[0.0, 0.0, 1.0], []], 2, 5 / 9),
    ],
)
def test_the_share_of_groups_that_teach_nothing_is_foretold_from_what_replies_earn(rewards, num_samples, expected):
    assert task.dead_groups(rewards, num_samples) == pytest.approx(expected)


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

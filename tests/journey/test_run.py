"""The recipe from nothing to a report, in small."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from gorae import load
from gorae.config import count_parameters, forward_flops, training_flops
from gorae.data import read_packed
from gorae.observe import read_metrics

MODELS = ("base", "base_think", "base_direct", "rl", "student_base", "student_distilled")
STAGES = ("prepare", "pretrain", "cold_start", "rl", "student_pretrain", "student_cold_start", "traces", "distill")
TRAINED = ("pretrain", "cold_start", "rl", "student_pretrain", "student_cold_start", "distill")


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_report_has_every_key_that_later_issues_rely_on(tiny):
    report = tiny.report
    assert report["seconds"] > 0
    assert report["evaluation"].keys() == set(MODELS)
    for name, summary in report["evaluation"].items():
        shares = {"pass_at_1", "ci95", "majority_at_16", "pass_at_k"}
        assert summary.keys() == shares | {"mean_length", "consistency", "items", "items_sha256", "by_language"}, name
        low, high = summary["ci95"]
        assert 0 <= low <= summary["pass_at_1"] <= high <= 1
        assert 0 <= summary["majority_at_16"] <= 1
        assert 1 <= summary["mean_length"] <= 8
        assert summary["items"] == 3
        assert {language: one["items"] for language, one in summary["by_language"].items()} == {
            "en": 1,
            "ko": 1,
            "zh": 1,
        }


def test_the_report_says_what_its_figures_depend_on(tiny):
    report = tiny.report
    teacher, student = (load(tiny.model(stage)).config for stage in ("rl", "distill"))
    assert report["models"]["teacher"] == vars(count_parameters(teacher))
    assert report["models"]["student"] == vars(count_parameters(student))
    assert report["machine"]["threads"] == 1
    assert report["machine"].keys() >= {"processor", "python", "torch", "vectors"}
    assert len(report["sealed_items"]["sha256"]) == 64
    assert report["settings"] == json.loads((tiny.folder / "settings.json").read_text(encoding="utf-8"))
    assert report["settings"]["rl"]["steps"] == 3
    assert "commit" in report


def test_the_bill_has_a_line_for_every_stage_and_stands_beside_deepseeks(tiny):
    bill = tiny.report["bill"]
    stages = {stage["stage"]: stage for stage in bill["stages"]}
    assert tuple(stages) == (*STAGES, "evaluate")
    for name, stage in stages.items():
        assert stage["wall_seconds"] > 0
        assert stage["core_hours"] > 0
        assert stage["usd"] > 0
        assert stage["tokens"] > 0
        assert stage["attempts"] == 1
        assert (stage["flops"] > 0) == (name != "prepare")
    assert bill["total"]["flops"] == pytest.approx(sum(stage["flops"] for stage in stages.values()))
    assert {other["model"] for other in bill["published"]} >= {"DeepSeek-V3", "DeepSeek-R1"}
    assert all(price["as_of"] and price["source"] for price in bill["prices"])


def test_pretraining_is_billed_for_its_tokens_by_the_shape_of_the_model(tiny):
    stages = {stage["stage"]: stage for stage in tiny.report["bill"]["stages"]}
    for name, num_steps in (("pretrain", 4), ("student_pretrain", 3)):
        num_tokens = num_steps * 4 * 64
        config = load(tiny.model(name)).config
        held_out = read_packed(tiny.folder / "prepare/held_out").rows  # read once, at the end
        measuring = forward_flops(config, held_out.size, context=held_out.shape[1] / 2)
        assert stages[name]["tokens"] == num_tokens + held_out.size
        training = training_flops(config, num_tokens, context=32)
        assert stages[name]["flops"] == pytest.approx(training + measuring)


def test_table_bill_and_place_of_the_report_are_printed(tiny):
    for words in (*MODELS, *STAGES, "pass@1", "DeepSeek-V3", str(tiny.folder / "report.md")):
        assert words in tiny.printed, words


def test_the_report_is_there_for_people_too(tiny):
    text = (tiny.folder / "report.md").read_text(encoding="utf-8")
    for words in (*MODELS, "majority@16", "DeepSeek-V3", "accuracy.png"):
        assert words in text
    for name in ("accuracy", "loss", "reward", "response_length"):
        picture = (tiny.folder / f"{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG\r\n")
        assert len(picture) > 5000
        assert f"{name}.png" in text


def test_every_verb_does_its_stages_and_no_more(tiny):
    assert tiny.stages_after == {
        "prepare": {"prepare"},
        "train": {"prepare", "pretrain"},
        "tune": {"prepare", "pretrain", "cold_start", "rl"},
        "distill": set(STAGES),
        "run": {*STAGES, "evaluate"},
    }


def test_every_learning_stage_keeps_its_metrics(tiny):
    for stage in TRAINED:
        lines = read_metrics(tiny.folder / stage / "metrics.jsonl")
        assert [line["step"] for line in lines] == list(range(len(lines)))
        assert all(line.keys() >= {"loss", "grad_norm", "tokens_per_second"} for line in lines)
        assert list((tiny.folder / stage / "tensorboard").rglob("*tfevents*"))
    assert all("max_vio" in line for line in read_metrics(tiny.folder / "pretrain/metrics.jsonl"))
    assert read_metrics(tiny.folder / "pretrain/metrics.jsonl")[-1]["val_bpb"] > 0


def test_reinforcement_learning_reports_under_trls_names_and_stays_on_policy(tiny):
    lines = read_metrics(tiny.folder / "rl/metrics.jsonl")
    assert len(lines) == 3
    for line in lines:
        assert line.keys() >= {
            "reward",
            "reward_std",
            "frac_reward_zero_std",
            "completions/mean_length",
            "kl",
            "entropy",
        }
        assert line["mismatch_kl"] == 0.0
        assert line["clip_ratio"] == 0.0
    assert lines[0]["kl"] == 0.0, "the first step is taken from the reference itself"
    assert any(line["reward_std"] > 0 for line in lines)


def test_every_stage_that_learns_changes_the_model_and_leaves_the_mtp_module_as_pretraining_made_it(tiny):
    models = {stage: load(tiny.model(stage), weights="float32").network.state_dict() for stage in TRAINED}
    for before, after in (("pretrain", "cold_start"), ("cold_start", "rl"), ("student_cold_start", "distill")):
        same = {name for name, tensor in models[before].items() if tensor.equal(models[after][name])}
        assert "head_WD" not in same, f"{after} learnt nothing"
        untouched = {name for name in models[before] if name.startswith("mtp.")}
        assert untouched <= same


def test_running_again_does_nothing_and_says_the_same(tiny, gorae):
    before = hashes(tiny.folder)
    again = gorae("run", "laptop", "--no-serve", "--out", tiny.folder, *tiny.flags)
    assert again.status == 0
    assert hashes(tiny.folder) == before
    assert "done, in" not in again.err
    assert "student_distilled" in again.out


def test_another_setting_in_the_same_folder_is_refused_in_a_sentence(tiny, gorae):
    called = gorae("run", "laptop", "--no-serve", "--out", tiny.folder, *tiny.flags, "--rl.steps", "4")
    assert called.status == 2
    expected = (
        f"gorae: {tiny.folder} was begun with rl.steps = 3, and now rl.steps = 4 is asked for; give another --out"
    )
    assert called.err.startswith(expected)
    assert called.err.count("\n") == 1


def test_where_to_serve_may_change_from_one_run_to_the_next(tiny, gorae):
    called = gorae("prepare", "--out", tiny.folder, *tiny.flags, "--serve.port", "8123")
    assert (called.status, called.err) == (0, "")


def test_an_unknown_setting_names_the_nearest(tmp_path, gorae):
    called = gorae("run", "laptop", "--out", tmp_path / "run", "--rl.step", "4")
    assert called.status == 2
    assert called.err.startswith("gorae: no option --rl.step; the nearest is --rl.steps;")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("broken.jsonl", '{"text": "fine"}\n{"text": \n', "line 2"),
        ("wrong.txt", b"\xff\xfe\xfa broken", "wrong.txt"),
        ("empty.txt", "", "empty.txt"),
        ("song.mp3", "la", "song.mp3"),
    ],
)
def test_data_that_can_not_be_read_is_named_with_its_place(tmp_path, gorae, name, content, sentence):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    called = gorae("prepare", "--out", tmp_path / "run", "--data", file)
    assert called.status == 2
    assert called.err.splitlines()[-1].startswith(f"gorae: {file}")
    assert sentence in called.err.splitlines()[-1]
    assert not (tmp_path / "run/prepare/done").exists()


def test_a_measurement_taken_again_is_the_same(tiny, gorae, tmp_path):
    """Only what is missing is measured, and sampling follows from the weights and fixed seeds."""
    folder = tmp_path / "run"
    shutil.copytree(tiny.folder, folder)
    kept = (folder / "evaluate/base.json").stat().st_mtime_ns
    (folder / "evaluate/done").unlink()
    (folder / "evaluate/rl.json").unlink()
    assert gorae("run", "laptop", "--no-serve", "--out", folder, *tiny.flags).status == 0
    assert json.loads((folder / "report.json").read_text(encoding="utf-8"))["evaluation"] == tiny.report["evaluation"]
    assert (folder / "evaluate/base.json").stat().st_mtime_ns == kept


def test_evaluate_gives_the_figures_of_the_report(tiny, gorae):
    first = tiny.flags.index("--evaluate.items")
    flags = ["--threads", "1", *tiny.flags[first : first + 6]]
    called = gorae("evaluate", tiny.model("cold_start"), "--mode", "think", *flags)
    assert called.status == 0, called.err
    summary = tiny.report["evaluation"]["base_think"]
    (line,) = [line for line in called.out.splitlines() if "gorae-run" in line]  # the name may go on below
    assert line.split()[-1] == f"{summary['mean_length']:.1f}"
    assert f"3 items, SHA-256 {summary['items_sha256']}" in called.out
    assert f"{100 * summary['pass_at_1']:.1f}" in line

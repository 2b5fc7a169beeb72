"""The report for programs and for people."""

import io
import json

import pytest
from rich.console import Console

from gorae.evals import evaluation_markdown, print_table, write_report
from gorae.observe import Bill, StageBill, read_prices

SUMMARY = {
    "pass_at_1": 0.3625,
    "ci95": [0.3, 0.425],
    "majority_at_16": 0.684,
    "mean_length": 10.52,
    "items": 300,
    "by_language": {language: {"pass_at_1": share, "items": 100} for language, share in (("ko", 0.3), ("zh", 1.0))},
}
EVALUATION = {"base": SUMMARY, "student_distilled": SUMMARY | {"ci95": [0.99, 1.0]}}


@pytest.fixture
def bill(monkeypatch):
    monkeypatch.delenv("GORAE_PRICES", raising=False)
    return Bill(
        (StageBill("pretrain", flops=1e12, tokens=1e6, core_hours=0.1, wall_seconds=200, usd=0.004),), read_prices()
    )


EXTRA = {"machine": {"cores": 2}, "commit": "0123abc", "settings": {"rl": {"steps": 80}}}


def test_the_json_report_holds_seconds_bill_evaluation_and_the_sections_given(tmp_path, bill):
    returned = write_report(tmp_path / "run", EVALUATION, bill=bill, seconds=598.5, extra=EXTRA)
    stored = json.loads((tmp_path / "run" / "report.json").read_text())
    assert stored == json.loads(json.dumps(returned))
    assert list(stored) == ["seconds", "bill", "evaluation", "machine", "commit", "settings"]
    assert stored["evaluation"] == EVALUATION
    assert stored["bill"]["total"]["usd"] == 0.004
    assert stored["settings"] == {"rl": {"steps": 80}}


def test_the_markdown_report_shows_table_pictures_bill_machine_and_commit(tmp_path, bill):
    (tmp_path / "accuracy.png").touch()
    write_report(tmp_path, EVALUATION, bill=bill, seconds=598.5, extra=EXTRA)
    text = (tmp_path / "report.md").read_text()
    assert "Made in 9 min 58 s." in text
    assert "| base | 36.2% | 30.0–42.5% | 68.4% | 30.0% | 100.0% | 10.5 | 300 |" in text
    assert "![accuracy](accuracy.png)" in text
    assert "reward.png" not in text  # no such picture was drawn
    assert "| pretrain | 1.00 TFLOP | 1.00M | 0.10 core-h | 3 min 20 s | $0.0040 |" in text
    assert "$5,576,000" in text
    assert "0123abc" in text
    assert '"cores": 2' in text


def test_an_extra_section_cannot_replace_ours(tmp_path, bill):
    with pytest.raises(ValueError, match=r"extra=\['bill'\] would replace"):
        write_report(tmp_path, EVALUATION, bill=bill, seconds=1.0, extra={"bill": {}})


def test_the_screen_table_fits_eighty_columns_uncut():
    console = Console(width=80, file=io.StringIO(), record=True)
    more = {"pass_at_k": {"1": 0.3625, "16": 0.9}, "consistency": 0.98, "items_sha256": "0123456789abcdef" * 4}
    more["by_language"] = SUMMARY["by_language"] | {"en": {"pass_at_1": 0.4, "items": 100}}
    print_table({name: summary | more for name, summary in EVALUATION.items()}, console)
    shown = console.export_text()
    assert "…" not in shown
    assert "student_distilled" in shown
    assert "99.0–100.0" in shown
    assert "maj@16" in shown


def test_models_measured_differently_leave_gaps_in_the_table():
    other = {name: value for name, value in SUMMARY.items() if name != "majority_at_16"} | {"majority_at_4": 0.5}
    rows = evaluation_markdown({"base": SUMMARY, "gym": other | {"by_language": {}}}).splitlines()
    assert rows[0] == "| model | pass@1 | 95% interval | majority@16 | majority@4 | ko | zh | length | items |"
    assert rows[2] == "| base | 36.2% | 30.0–42.5% | 68.4% | – | 30.0% | 100.0% | 10.5 | 300 |"
    assert rows[3] == "| gym | 36.2% | 30.0–42.5% | – | 50.0% | – | – | 10.5 | 300 |"


def test_the_screen_table_of_a_task_fits_a_hundred_columns_uncut_with_the_hash_of_its_items():
    task = SUMMARY | {
        "pass_at_k": {"1": 0.3625, "16": 0.9},
        "items_sha256": "0123456789abcdef" * 4,
        "consistency": 0.987,
        "reward": 0.4125,
        "reward_ci95": [0.35, 0.48],
        "clipped_ratio": 0.125,
        "grader_errors": 0.004,
    }
    console = Console(width=100, file=io.StringIO(), record=True)
    print_table({"before": task, "a_model_whose_name_is_long": task}, console)
    shown = console.export_text()
    assert "…" not in shown
    for cell in ("0.412", "0.35–0.48", "90.0", "98.7", "12.5", "0.4", f"SHA-256 {task['items_sha256']}"):
        assert cell in shown


def test_a_reward_that_is_pass_at_1_is_not_told_twice():
    rows = evaluation_markdown({"base": SUMMARY | {"reward": SUMMARY["pass_at_1"], "reward_ci95": [0.3, 0.4]}})
    assert "reward" not in rows.splitlines()[0]

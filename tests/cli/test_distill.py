"""`gorae distill`: the laptop recipe's stage without a task, and with one whatever the task's run is told."""

from pathlib import Path

import pytest

from gorae.cli import distill, main
from gorae.recipes import LaptopSettings

WORDS = ["distill", "--task", "some/mine.py", "--teacher", "some/teacher", "--student", "some/student"]


@pytest.fixture
def noted(monkeypatch):
    """What the runs were called with; the first of them ends with an alarm."""
    noted = []
    monkeypatch.setattr(
        distill,
        "distil_on_task",
        lambda *given, **named: noted.append((*given, named)) or {"alarms": ["ring"][len(noted) - 1 :]},
    )
    monkeypatch.delenv(distill.KEY, raising=False)
    return noted


def test_a_task_a_teacher_and_a_student_are_a_run(noted, monkeypatch):
    assert main([*WORDS, "--teach.num_prompts", "7", "--seed", "3"]) == 3, "an alarm rang"
    monkeypatch.setenv(distill.KEY, "secret")
    assert main([*WORDS, "--from", "policy", "--out", "elsewhere", "--teach.on_policy.estimator", "sampled"]) == 0
    (folder, settings, named), (elsewhere, other, with_key) = noted
    assert (folder, elsewhere) == (Path("runs/mine-distilled"), Path("elsewhere"))
    assert (settings.task, settings.teacher, settings.student) == ("some/mine.py", "some/teacher", Path("some/student"))
    assert (settings.source, settings.teach.num_prompts, settings.seed) == ("traces", 7, 3)
    assert (other.source, other.teach.on_policy.estimator) == ("policy", "sampled")
    assert (named, with_key) == ({"api_key": None}, {"api_key": "secret"})


def test_the_recipes_stage_has_the_recipes_settings(monkeypatch):
    asked = []
    monkeypatch.setattr(distill, "do_stages", lambda args, until: asked.append((args.out, args.settings, until)))
    assert main(["distill", "--distill.num_prompts", "9"]) == 0
    ((out, settings, until),) = asked
    assert (out, until, settings.distill.num_prompts) == (Path("runs/laptop"), "distill", 9)
    assert type(settings) is LaptopSettings


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["distill", "--task", "mine.py"], "--task, --teacher and --student go together"),
        (["distill", "--from", "policy"], "--task, --teacher and --student go together"),
        (["distill", "--teach.max_tokens", "3"], "--teach.max_tokens says nothing about the laptop recipe"),
        ([*WORDS, "--distill.num_prompts", "3"], "--distill.num_prompts says nothing about a task"),
        ([*WORDS, "--teach.on_policy.estimator", "half"], "estimator=half must be one of full, sampled"),
    ],
)
def test_what_does_not_belong_together_is_refused(noted, words, told, capsys):
    assert main(words) == 2
    assert told in capsys.readouterr().err
    assert not noted

"""The verbs: what each hands to the room that does the work. The work itself is tested there, and in tests/journey."""

import shlex
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import ClassVar

import pytest

import gorae.cli
from gorae.cli import _stages, main
from gorae.client import ClientError, Delta
from gorae.recipes import LaptopSettings

VERBS = ("run", "prepare", "train", "tune", "distill", "evaluate", "convert", "inspect", "serve", "chat", "doctor")
VERBS += ("bench", "parity", "tasks")
SUMMARY = {
    "pass_at_1": 0.25,
    "ci95": [0.1, 0.4],
    "majority_at_16": 0.5,
    "mean_length": 7.5,
    "items": 3,
    "by_language": {"ko": {"pass_at_1": 0.75, "items": 1}},
}


@pytest.fixture
def calls(monkeypatch):
    """Stands in for the recipes: what was called, with what."""
    noted = []

    def stand_in(name, result=None):
        return lambda *words, **named: (noted.append((name, *words, named)), result)[1]

    run, serve, evaluate = (import_module(f"gorae.cli.{verb}") for verb in ("run", "serve", "evaluate"))
    for name in ("run_laptop", "run_evidence", "serve_model"):
        monkeypatch.setattr(run, name, stand_in(name))
    monkeypatch.setattr(serve, "serve_model", stand_in("serve_model"))
    monkeypatch.setattr(evaluate, "evaluate_folder", stand_in("evaluate_folder", SUMMARY))
    monkeypatch.setattr(_stages.Run, "open", stand_in("open", "the run"))
    monkeypatch.setattr(_stages, "make_models", stand_in("make_models"))
    return noted


def test_the_verbs_of_the_issue_are_there():
    assert set(VERBS) <= set(gorae.cli._summaries())


@pytest.mark.parametrize("verb", VERBS)
def test_the_example_in_the_help_is_a_command_that_parses(verb, monkeypatch):
    module, parsed = import_module(f"gorae.cli.{verb}"), []
    monkeypatch.setattr(module, "run", parsed.append)
    words = shlex.split(module.EXAMPLE)
    assert words[:2] == ["gorae", verb]
    assert main(words[1:]) == 0
    assert len(parsed) == 1


def test_run_makes_the_model_and_serves_what_reinforcement_learning_made(calls, tmp_path):
    assert main(["run", "laptop", "--out", str(tmp_path), "--rl.steps", "3", "--serve.port", "8123"]) == 0
    (made, folder, settings, _), (served, model, wanted, _) = calls
    assert (made, folder, settings.rl.steps) == ("run_laptop", tmp_path, 3)
    assert (served, model, wanted.port) == ("serve_model", tmp_path / "rl/model", 8123)


def test_run_without_serving_stops_after_the_report(calls):
    assert main(["run", "laptop", "--no-serve"]) == 0
    assert [call[:2] for call in calls] == [("run_laptop", Path("runs/laptop"))]


def test_run_with_evidence_gathers_it_and_serves_nothing(calls):
    assert main(["run", "laptop", "--evidence"]) == 0
    assert [call[0] for call in calls] == ["run_evidence"]


def test_there_is_one_recipe(calls, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["run", "moonshot"])
    assert exit_.value.code == 2
    assert "laptop" in capsys.readouterr().err
    assert not calls


@pytest.mark.parametrize(
    ("verb", "until"), [("prepare", "prepare"), ("train", "pretrain"), ("tune", "rl"), ("distill", "distill")]
)
def test_the_verbs_of_stages_go_as_far_as_their_name_says(calls, tmp_path, verb, until):
    assert main([verb, "--out", str(tmp_path), "--seed", "5", "--data", "notes"]) == 0
    (opened, folder, settings, _), (made, run, named) = calls
    assert (opened, folder, settings.seed, settings.data) == ("open", tmp_path, 5, Path("notes"))
    assert type(settings) is LaptopSettings, "the run folder of every verb holds the same settings"
    assert (made, run, named) == ("make_models", "the run", {"until": until})


@pytest.mark.parametrize("mode", ["free", "think", "direct"])
def test_evaluate_measures_a_folder_in_a_mode_and_prints_a_table(calls, capsys, mode):
    assert main(["evaluate", "runs/deep/rl/model", "--mode", mode, "--evaluate.items", "9", "--threads", "1"]) == 0
    ((_, path, settings, named),) = calls
    assert (path, settings.evaluate.items, settings.threads) == (Path("runs/deep/rl/model"), 9, 1)
    assert named == {"mode": mode}
    printed = capsys.readouterr().out
    assert f"gorae-deep-rl, {mode}" in printed
    assert all(figure in printed for figure in ("25.0", "10.0", "40.0", "50.0", "75.0", "7.5"))


def test_serve_serves_a_folder_where_it_is_told(calls):
    assert main(["serve", "some/model", "--serve.host", "0.0.0.0", "--serve.port", "9000"]) == 0
    ((_, path, wanted, named),) = calls
    assert (path, wanted.host, wanted.port) == (Path("some/model"), "0.0.0.0", 9000)
    assert named == {"cache_type": None, "prefix_folder": None}


def test_serve_is_told_what_the_cache_holds(calls, capsys):
    assert main(["serve", "some/model", "--cache-type", "int8"]) == 0
    assert calls[0][-1]["cache_type"] == "int8"
    with pytest.raises(SystemExit):
        main(["serve", "some/model", "--cache-type", "int4"])
    assert "invalid choice: 'int4'" in capsys.readouterr().err


def test_serve_keeps_prefixes_in_a_folder_that_is_given(calls):
    assert main(["serve", "some/model", "--prefix-folder", "some/prefixes"]) == 0
    assert calls[0][-1]["prefix_folder"] == Path("some/prefixes")


def test_a_prefix_folder_that_can_not_be_written_is_named_before_a_model_is_loaded(tmp_path, capsys):
    (tmp_path / "file").touch()
    for folder, reason in (("file", "File exists"), ("file/below", "Not a directory")):
        assert main(["serve", str(tmp_path / "nowhere"), "--prefix-folder", str(tmp_path / folder)]) == 2
        told = f"gorae: prefixes can not be kept in {tmp_path / folder} ({reason}); give a prefix folder that can be"
        assert capsys.readouterr().err.startswith(told)


@pytest.mark.parametrize("verb", ["serve", "evaluate"])
def test_a_folder_that_holds_no_model_is_named(tmp_path, capsys, verb):
    assert main([verb, str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"gorae: {tmp_path} has no config.json")
    assert main([verb, str(tmp_path / "nowhere")]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err


class Whale:
    """Stands in for the client: notes what it is asked, thinks and answers."""

    asked: ClassVar[list[tuple]] = []

    def __init__(self, url):
        self.url = url

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def stream(self, messages, **options):
        Whale.asked.append((self.url, messages, options))
        if messages[-1]["content"] == "break":
            raise ClientError("the server\nbroke off")
        yield Delta(reasoning="[thinking]")
        yield Delta(content="[answer]")


@pytest.fixture
def asked(monkeypatch):
    monkeypatch.setattr(import_module("gorae.cli.chat"), "ChatClient", Whale)
    monkeypatch.setattr(Whale, "asked", [])
    return Whale.asked


@pytest.mark.parametrize(
    ("flags", "options"),
    [([], {}), (["--think"], {"thinking": {"type": "enabled"}}), (["--direct"], {"thinking": {"type": "disabled"}})],
)
def test_chat_asks_the_words_of_the_command_line_and_leaves(asked, capsys, flags, options):
    assert main(["chat", "how", "many", "whales?", *flags, "--url", "http://sea/v1"]) == 0
    assert asked == [("http://sea/v1", [{"role": "user", "content": "how many whales?"}], options)]
    assert capsys.readouterr().out == "[thinking]\n\n[answer]\n"


@pytest.mark.parametrize(
    ("flags", "before"),
    [
        ([], []),
        (["--remember"], [{"role": "user", "content": "first"}, {"role": "assistant", "content": "[answer]"}]),
    ],
)
def test_chat_asks_line_by_line_until_the_input_ends(asked, capsys, monkeypatch, flags, before):
    lines = iter(["first", "", "second"])

    def read(*_):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    assert main(["chat", *flags]) == 0
    assert [messages for _, messages, _ in asked] == [
        [{"role": "user", "content": "first"}],
        [*before, {"role": "user", "content": "second"}],
    ]


def test_a_server_that_breaks_off_is_a_line_and_status_2(asked, capsys):
    assert main(["chat", "break"]) == 2
    assert capsys.readouterr().err == "gorae: the server broke off\n"


def test_thinking_and_not_thinking_at_once_is_refused(asked, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["chat", "--think", "--direct", "x"])
    assert exit_.value.code == 2


def test_chat_names_the_model_it_has_loaded_and_not_the_address_of_its_own_server(monkeypatch, capsys):
    chat = import_module("gorae.cli.chat")

    @contextmanager
    def served(path):
        yield "http://127.0.0.1:4711/v1"

    class Broken:
        def __init__(self, url):
            self.url = url

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def stream(self, _):
            raise ClientError(f"{self.url} broke off the reply: the engine raised ValueError")

    monkeypatch.setattr("gorae.recipes.served_model", served)
    monkeypatch.setattr(chat, "ChatClient", Broken)
    assert main(["chat", "hello", "--model", "models/whale"]) == 2
    assert capsys.readouterr().err.startswith("gorae: models/whale broke off the reply")


def test_tune_with_a_task_and_a_model_learns_it(monkeypatch):
    noted = []
    tune = import_module("gorae.cli.tune")
    monkeypatch.setattr(
        tune,
        "tune_on_task",
        lambda *given, **named: noted.append((*given, named)) or {"alarms": ["ring"][len(noted) - 1 :]},
    )
    words = ["tune", "--task", "some/mine.py", "--model", "some/model", "--rl.steps", "7", "--evaluate.items", "5"]
    assert main([*words, "--seed", "3"]) == 3, "an alarm rang"
    assert main([*words, "--out", "elsewhere", "--plan"]) == 0
    (folder, settings, learns), (elsewhere, _, plans) = noted
    assert (learns, plans) == ({"only_plan": False}, {"only_plan": True})
    assert (folder, elsewhere) == (Path("runs/mine"), Path("elsewhere"))
    assert (settings.task, settings.model, settings.seed) == ("some/mine.py", Path("some/model"), 3)
    assert (settings.rl.steps, settings.evaluate.items) == (7, 5)


@pytest.mark.parametrize(
    ("option", "function", "words", "section"),
    [
        ("examples", "tune_on_examples", ["--sft.steps", "7", "--sft.adapter.rank", "3"], "sft"),
        ("preferences", "tune_on_preferences", ["--dpo.steps", "7", "--dpo.adapter.rank", "3"], "dpo"),
    ],
)
def test_tune_with_rows_and_a_model_learns_from_them(monkeypatch, option, function, words, section):
    noted = []
    monkeypatch.setattr(import_module("gorae.cli.tune"), function, lambda *given: noted.append(given) or {"alarms": []})
    assert main(["tune", f"--{option}", "some/mine.jsonl", "--model", "some/model", "--seed", "3", *words]) == 0
    ((folder, settings),) = noted
    assert folder == Path("runs/mine")
    assert (getattr(settings, option), settings.model, settings.seed) == (
        Path("some/mine.jsonl"),
        Path("some/model"),
        3,
    )
    assert (getattr(settings, section).steps, getattr(settings, section).adapter.rank) == (7, 3)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--task", "mine.py"], "--model goes together with one of --task, --examples and --preferences"),
        (["--plan"], "--model goes together with one of --task, --examples and --preferences"),
        (["--examples", "a.jsonl", "--model", "m", "--plan"], "--plan is for a task"),
        (["--model", "m"], "--model goes together with one of --task, --examples and --preferences"),
        (["--model", "m", "--examples", "a.jsonl", "--preferences", "b.jsonl"], "--model goes together with one of"),
        (["--task", "t.py", "--model", "m", "--cold_start.steps", "3"], "--cold_start.steps says nothing about a run"),
        (["--examples", "a.jsonl", "--model", "m", "--dpo.beta", "3"], "--dpo.beta says nothing about a run with --ex"),
        (["--sft.steps", "3"], "--sft.steps says nothing about the laptop recipe"),
    ],
)
def test_tune_refuses_what_does_not_belong_together(words, told, capsys):
    assert main(["tune", *words]) == 2
    assert told in capsys.readouterr().err


def test_tasks_check_prints_what_a_grader_gives_and_its_exit_status_says_whether_to_trust_it(tmp_path, capsys):
    rows = "rows = [{'prompt': f'What is {n}?', 'answer': n} for n in range(100, 110)]\n"
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(rows + "from gorae.tasks import reward_exact\n")
    bad.write_text(rows + "def reward(completions, answer): return [str(a) in c for c, a in zip(completions, answer)]")
    assert main(["tasks", "check", str(good), "--rows", "5"]) == 0
    assert "sound: right answers earn all, and the others nothing" in capsys.readouterr().out
    assert main(["tasks", "check", str(bad)]) == 1
    printed = capsys.readouterr().out
    assert "✗ echo" in printed
    assert "not to be trusted yet: echo" in printed
    assert main(["tasks", "check", str(tmp_path / "none.py")]) == 2
    assert "there is no file" in capsys.readouterr().err


def test_evaluate_measures_a_model_on_a_task(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    noted = []
    evaluate = import_module("gorae.cli.evaluate")
    summary = SUMMARY | {"reward": 0.5, "reward_ci95": [0.25, 0.75], "clipped_ratio": 0.125, "grader_errors": 0.0}
    monkeypatch.setattr(evaluate, "evaluate_on_task", lambda *given, **named: noted.append((*given, named)) or summary)
    assert main(["evaluate", "runs/mine/rl/model", "--task", "mine.py", "--evaluate.items", "9"]) == 0
    ((path, task, wanted, named),) = noted
    assert (path, task, wanted.items, named["every_row"]) == (Path("runs/mine/rl/model"), "mine.py", 9, False)
    assert "gorae-mine-rl" in (printed := capsys.readouterr().out)
    assert all(figure in printed for figure in ("0.500", "0.25–0.75", "25.0", "7.5", "12.5"))
    assert main(["evaluate", "runs/mine/rl/model", "--task", "mine.py", "--mode", "think"]) == 2
    assert "--mode think is for the recipe's items" in capsys.readouterr().err
    assert main(["evaluate", "runs/mine/rl/model", "--all"]) == 2
    assert "--all is for the rows of a --task" in capsys.readouterr().err

import subprocess
import sys

import pytest

import gorae.cli
from gorae.cli import main

VERB = '''"""Sing a song.

It knows no melody.
"""

from dataclasses import dataclass, field

EXAMPLE = "gorae sing whale --song.verses 3"


@dataclass(frozen=True)
class Song:
    verses: int = 2
    low: float = 0.0


@dataclass(frozen=True)
class Singing:
    """How it is sung."""

    seed: int = 1
    song: Song = field(default_factory=Song)


def add_arguments(parser):
    parser.add_argument("subject")
    parser.add_argument("encore", nargs="?")
    parser.add_argument("--loud", action="store_true")
    parser.set_defaults(settings=Singing())


def run(args):
    if args.subject == "interrupt":
        raise KeyboardInterrupt
    if args.subject == "mistake":
        raise ValueError("no such\\nsong")
    if args.subject == "mistakes":
        raise ValueError("2 complaints\\n  one\\n  another\\n")
    print(args.subject, args.encore, args.loud, args.settings, args.overrides)
'''


@pytest.fixture
def sing(tmp_path, monkeypatch):
    (tmp_path / "sing.py").write_text(VERB, encoding="utf-8")
    monkeypatch.setattr(gorae.cli, "__path__", [*gorae.cli.__path__, str(tmp_path)])
    yield
    sys.modules.pop("gorae.cli.sing", None)


def verbs() -> list[str]:
    return list(gorae.cli._summaries())


def test_a_file_is_a_verb(sing, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    assert "sing       Sing a song.\n" in capsys.readouterr().out
    assert "gorae.cli.sing" not in sys.modules


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_has_a_summary_and_a_help_with_an_example(verb, capsys):
    assert gorae.cli._summaries()[verb].endswith(".")
    with pytest.raises(SystemExit) as exit_:
        main([verb, "--help"])
    assert exit_.value.code == 0
    assert f"example:\n  gorae {verb}" in capsys.readouterr().out


def test_help_lists_settings_and_their_defaults(sing, capsys):
    with pytest.raises(SystemExit):
        main(["sing", "--help"])
    told = capsys.readouterr().out
    assert "  --song.verses 2\n" in told
    assert told.endswith("How it is sung.\n")


@pytest.mark.parametrize(
    "argv",
    [
        ["whale", "--song.verses", "5", "--song.low", "-0.5", "--seed", "9", "--loud"],
        ["--song.verses=5", "whale", "--loud", "--song.low=-0.5", "--seed=9"],
        ["--song.verses", "5", "--song.low", "-0.5", "--seed", "9", "whale", "--loud"],
    ],
)
def test_keys_with_values_override_settings_wherever_they_stand(sing, capsys, argv):
    assert main(["sing", *argv]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("whale None True Singing(seed=9, song=Song(verses=5, low=-0.5))")
    assert "{'song.verses': '5', 'song.low': '-0.5', 'seed': '9'}" in printed


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["sng"], "unknown verb sng; the nearest is sing; see gorae --help"),
        (["sing", "x", "--song.verse", "5"], "no option --song.verse; the nearest is --song.verses"),
        (["sing", "x", "--lod"], "no option --lod; the nearest is --loud"),
        (["sing", "x", "--song.verses"], "--song.verses needs a value, as in --song.verses 2"),
        (["sing", "x", "--song.verses", "--loud"], "--song.verses needs a value, as in --song.verses 2"),
        (["sing", "x", "--song.verses", "many"], "song.verses=many is not a whole number"),
        (["sing", "x", "y", "z"], "no place for 'z'; see gorae sing --help"),
        (["sing", "mistake"], "no such song"),
        (["doctor", "--rl.steps", "5"], "no option --rl.steps; the nearest is --json"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_status_2(sing, capsys, argv, sentence):
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"gorae: {sentence}")
    assert captured.err.count("\n") == 1


def test_mistakes_told_together_have_a_line_each(sing, capsys):
    assert main(["sing", "mistakes"]) == 2
    assert capsys.readouterr().err == "gorae: 2 complaints\n  one\n  another\n"


def test_an_interrupt_is_quiet(sing, capsys):
    assert main(["sing", "interrupt"]) == 130
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"gorae {gorae.__version__}\n"


def test_help_comes_without_torch():
    program = "import sys\nfrom gorae.cli import main\ntry: main([])\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "gorae run laptop" in done.stdout

"""What README and docs name exists: files, links, commands, settings, metrics, names; and their Python runs."""

import argparse
import ast
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from gorae.checkpoint import save_model
from gorae.checkpoint.names import Place, copies, places
from gorae.cli import main
from gorae.cli.tune import TuneVerbSettings
from gorae.config import PRESETS, ModelConfig, listing, to_published
from gorae.model import Network
from gorae.tasks import Graders, examine
from gorae.text import Tokenizer

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "dev/LOG.md"]
ROOMS = {door.parent.name for door in (ROOT / "gorae").glob("*/__init__.py")}
VERBS = {path.stem for path in (ROOT / "gorae/cli").glob("*.py") if not path.stem.startswith("_")}
TOP = {path.name for path in ROOT.iterdir()} - {"runs"}  # a run makes runs/
SETTINGS = {line.split(" = ")[0] for line in listing(TuneVerbSettings())}
SECTIONS = {key.partition(".")[0] for key in SETTINGS if "." in key}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


@cache
def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page: what they are marked as, and their text."""
    return re.findall(r"^```(.*)\n([\s\S]*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE)


@cache
def prose(page: Path) -> str:
    return re.sub(r"^```[\s\S]*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)


@cache
def code(page: Path) -> list[str]:
    """What stands between single backticks."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def rows(page: Path) -> list[list[str]]:
    """The cells of every table row."""
    lines = [line for line in prose(page).splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_a_relative_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if not target.startswith(("http://", "https://")):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), f"{target} does not exist"
            assert not anchor or anchor in anchors(file), f"{path} has no heading #{anchor}"


@every_page
def test_a_path_exists(page):
    links = re.findall(r"\[([^\]]+)\]\([^)]+\)", prose(page))
    for path in [*code(page), *links]:
        if "/" in path and " " not in path and path.partition("/")[0] in TOP:
            assert (ROOT / path).exists(), f"{path} does not exist"


@every_page
def test_a_command_is_understood(page, monkeypatch):
    ran = []
    for verb in VERBS:
        monkeypatch.setattr(import_module(f"gorae.cli.{verb}"), "run", ran.append)
    lines = [line.partition("#")[0] for _, text in blocks(page) for line in text.splitlines()]
    for command in [*code(page), *lines]:
        program, *words = command.split() or [""]
        if program != "gorae" or not words:
            continue
        assert words[0] in VERBS, f"{command} names no verb"
        if words[1:] and "--help" not in words:
            assert main(words) == 0, f"{command} is refused"
            assert ran.pop()


@every_page
def test_an_option_and_a_make_target_exist(page):
    options = {f"--{key}" for key in SETTINGS} | {"--section.key"}
    for verb in VERBS:
        parser = argparse.ArgumentParser()
        import_module(f"gorae.cli.{verb}").add_arguments(parser)
        options |= set(re.findall(r"--[\w-]+", parser.format_help()))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for words in map(str.split, code(page)):
        assert not words[0].startswith("--") or words[0] in options, f"{words[0]} is no option"
        assert words[0] != "make" or set(words[1:]) <= targets, f"{' '.join(words)}: no such target"


@every_page
def test_a_setting_exists(page):
    for name in code(page):
        if re.fullmatch(r"\w+(\.\w+)+", name) and name.partition(".")[0] in SECTIONS:
            assert name in SETTINGS, f"{name} is no setting"


@every_page
def test_a_public_name_exists(page):
    for name in code(page):
        if re.fullmatch(r"gorae(\.\w+)+", name):
            module, _, attribute = name.rpartition(".")
            assert attribute in import_module(module).__all__ or attribute in ROOMS, f"{name} does not exist"


@pytest.fixture
def finished_run(tmp_path, monkeypatch) -> None:
    """A folder with an untrained model where `make run` leaves the trained one."""
    tokenizer = Tokenizer.train(["1 + 1 = 2"], vocab_size=300)
    widths = {"model_dim": 8, "query_rank": 4, "latent_dim": 4, "nope_dim": 4, "rope_dim": 4, "value_dim": 4}
    sizes = {
        "num_layers": 2,
        "num_heads": 1,
        "dense_dim": 8,
        "expert_dim": 4,
        "num_experts": 2,
        "num_active_experts": 1,
    }
    network = Network(ModelConfig(vocab_size=tokenizer.vocab_size, **widths, **sizes))
    save_model(tmp_path / "runs/laptop/rl/model", network, tokenizer=tokenizer)
    monkeypatch.chdir(tmp_path)


EXAMPLES = [(page.name, text) for page in PAGES for mark, text in blocks(page) if mark == "python"]


@pytest.mark.parametrize(("page", "text"), EXAMPLES, ids=[page for page, _ in EXAMPLES])
def test_an_example_runs(page, text, finished_run, capsys):
    exec(compile(text, page, "exec"), {})
    assert capsys.readouterr().out


def test_the_task_of_ten_lines_has_ten_and_is_sound(tmp_path):
    text = next(text for mark, text in blocks(ROOT / "docs/tasks.md") if mark == "py")
    assert len([line for line in text.splitlines() if line]) <= 10
    (tmp_path / "my_task.py").write_text(text, encoding="utf-8")
    with Graders(str(tmp_path / "my_task.py")) as graders:
        assert examine(graders).is_sound


def test_code_shown_of_a_kernel_is_its_code():
    folder = ROOT / "gorae/kernels/rms_norm"
    source = {
        line.strip()
        for name in ("__init__.py", "reference.py", "cpu.cc")
        for line in (folder / name).read_text().splitlines()
    }
    shown = [text for mark, text in blocks(ROOT / "docs/kernels.md") if mark in ("cpp", "py")]
    assert len(shown) == 5
    assert not [line for text in shown for line in text.splitlines() if line.strip() not in source]


def test_the_picture_of_the_house_shows_every_room_and_no_other():
    (picture,) = (text for _, text in blocks(ROOT / "README.md") if "roof" in text)
    floors = [re.split(r"\s{2,}", line.strip()) for line in picture.splitlines()]
    assert {room for _, rooms, _ in floors for room in rooms.split(" | ")} == ROOMS


def test_every_room_and_verb_is_in_its_table():
    assert {cell for row in rows(ROOT / "docs/tour.md") for cell in row} >= ROOMS
    assert {row[0] for row in rows(ROOT / "README.md")} >= VERBS


DENSE = ModelConfig.dense(
    vocab_size=61,
    model_dim=24,
    num_layers=2,
    num_heads=6,
    head_dim=4,
    dense_dim=28,
    stop_ids=(4, 3),
    num_key_heads=2,
    attention_bias=True,
    output_bias=True,
    feed_forward_bias=True,
)


def test_every_key_of_a_published_config_has_its_word():
    told = {row[2]: row[1] for row in rows(ROOT / "docs/words.md") if row[2] in ModelConfig.__annotations__}
    assert set(told) == set(ModelConfig.__annotations__)
    configs = (PRESETS["deepseek-v3"], DENSE)
    for ours, theirs in told.items():
        values = [(to_published(config).get(theirs), getattr(config, ours)) for config in configs]
        if ours == "stop_ids":
            values = [(tuple(published[1:]), own) for published, own in values if isinstance(published, list)]
        assert any(published == own for published, own in values), (theirs, ours)


def test_every_published_tensor_has_its_word():
    config = TuneVerbSettings().teacher
    told = {}
    for _, theirs, ours, *_ in rows(ROOT / "docs/words.md"):
        for layer in range(config.num_layers):
            for expert in range(config.num_experts):
                numbers = {"N": str(layer), "E": str(expert), "M": str(config.num_layers)}
                published, name = (re.sub(r"\b[NEM]\b", lambda m: numbers[m[0]], text) for text in (theirs, ours))  # noqa: B023
                whole, _, slot = name.rstrip("]").partition("[")
                told[published] = Place(whole, int(slot) if slot else None)
    real = places(config) | copies(config)
    needed = {name for name, place in real.items() if ".block." not in place.name}
    assert not {name for name in needed if told.get(name) != real[name]}


def test_every_metric_in_a_table_is_written_by_some_file():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "gorae").rglob("*.py")]
    texts = {node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    pages = [ROOT / "docs/training.md", ROOT / "docs/algorithms.md"]
    tables = [
        table for page in pages for table in re.findall(r"^\| name \|.*\n((?:\|.*\n)+)", prose(page), re.MULTILINE)
    ]
    names = [name for table in tables for name in re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)]
    assert len(tables) == len(pages)
    assert not [name for name in names if name.rstrip("0123456789") not in texts]

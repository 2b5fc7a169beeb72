"""The roof: parse a command line, call one verb, print.

Every other file here is a verb: its docstring's first line is its summary, `EXAMPLE` the line its help shows,
`add_arguments(parser)` its flags, `run(args)` the work. Settings given to `parser.set_defaults(settings=...)` come back
overridden from `--section.key value`; `args.overrides` keeps the texts. A verb is imported when it is called, so that
`gorae --help` never waits for torch. With PYTHONDEVMODE=1 an error keeps its traceback.
"""

import argparse
import ast
import difflib
import os
import re
import sys
from collections.abc import Container, Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from gorae import __version__
from gorae.config import listing, override

__all__ = ["main"]

_OPTION = re.compile(r"--(\w+(?:\.\w+)*)(?:=.*)?", re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status: 2 for a mistake of the user's, 130 when interrupted."""
    # Idle threads spin briefly, then sleep. On two cores beside another busy program a training step took 0.41 s so,
    # 1.03 s with OpenMP's own long spinning, 0.63 s with none. OpenMP reads it when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        return _main(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        if sys.flags.dev_mode:
            raise
        print(f"gorae: {_told(error)}", file=sys.stderr)
        return 2


def _told(error: Exception) -> str:
    """An error in one line, and a line for each item of a list in it; items are indented."""
    parts = re.split(r"\n(?=  \S)", str(error))
    return "\n  ".join(" ".join(part.split()) for part in parts)


def _main(argv: list[str]) -> int:
    summaries = _summaries()
    if not argv or argv[0].startswith("-"):
        _top_parser(summaries).parse_args(argv or ["--help"])
    verb, *rest = argv
    if verb not in summaries:
        raise ValueError(f"unknown verb {verb}; the nearest is {_nearest(verb, list(summaries))}; see gorae --help")
    module = import_module(f"{__name__}.{verb}")
    parser = argparse.ArgumentParser(f"gorae {verb}", description=summaries[verb], allow_abbrev=False)
    module.add_arguments(parser)
    return module.run(_parse(parser, rest, example=module.EXAMPLE)) or 0


def _summaries() -> dict[str, str]:
    """Each verb and its summary, read from the file without running it."""
    files = [path for folder in __path__ for path in Path(folder).glob("*.py") if not path.stem.startswith("_")]
    docstrings = {path.stem: ast.get_docstring(ast.parse(path.read_bytes())) or "" for path in files}
    return {verb: docstrings[verb].partition("\n")[0] for verb in sorted(docstrings)}


def _top_parser(summaries: dict[str, str]) -> argparse.ArgumentParser:
    lines = [f"  {verb:<10} {summary}" for verb, summary in summaries.items()]
    parser = argparse.ArgumentParser(
        "gorae",
        usage="gorae VERB [options]",
        description="Make, improve, distil, measure and serve a reasoning model.\n\nverbs:\n" + "\n".join(lines),
        epilog="example:\n  gorae run laptop\n  gorae run --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"gorae {__version__}")
    return parser


def _parse(parser: argparse.ArgumentParser, argv: list[str], *, example: str) -> argparse.Namespace:
    """Parse flags by `parser`, and every other `--key value` as an override of the verb's settings."""
    settings = parser.get_default("settings")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"example:\n  {example}"
    if settings is not None:
        lines = "\n  ".join(f"--{line.replace(' = ', ' ', 1)}" for line in listing(settings))
        parser.epilog += f"\n\nsettings and their defaults:\n  {lines}\n\n{type(settings).__doc__}"
    # Before argparse, which could take an override's value for a positional.
    overrides, plain = _split_overrides(argv, _keys(settings))
    args, unknown = parser.parse_known_args(plain)
    args.overrides = _pairs(overrides + unknown, parser)
    if settings is not None:
        args.settings = override(settings, args.overrides)
    return args


def _split_overrides(argv: list[str], known: Container[str]) -> tuple[list[str], list[str]]:
    """Settings with their values, and the other words; whatever has a dot is meant as a setting, known or not."""
    overrides: list[str] = []
    plain: list[str] = []
    words = iter(argv)
    for word in words:
        key = _OPTION.fullmatch(word)
        is_override = key is not None and ("." in key[1] or key[1] in known)
        (overrides if is_override else plain).append(word)
        if is_override and "=" not in word:
            overrides.extend(islice(words, 1))
    return overrides, plain


def _pairs(words: list[str], parser: argparse.ArgumentParser) -> dict[str, str]:
    """`--key value` and `--key=value` words as a dictionary; every key is one of the verb's settings."""
    known = _keys(parser.get_default("settings"))
    pairs: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            raise ValueError(f"no place for {word!r}; see {parser.prog} --help")
        key, equals, value = word.removeprefix("--").partition("=")
        if key not in known:
            options = [f"--{name}" for name in known] + re.findall(r"--[\w-]+", parser.format_usage())
            nearest = f"the nearest is {_nearest(f'--{key}', options)}; " if options else ""
            raise ValueError(f"no option --{key}; {nearest}see {parser.prog} --help")
        following = value if equals else next(rest, None)
        if following is None or (not equals and following.startswith("--")):
            raise ValueError(f"--{key} needs a value, as in --{key} {known[key]}")
        pairs[key] = following
    return pairs


def _keys(settings: Any) -> dict[str, str]:
    if settings is None:
        return {}
    return dict(line.split(" = ", 1) for line in listing(settings))


def _nearest(word: str, words: list[str]) -> str:
    return difflib.get_close_matches(word, words, n=1, cutoff=0.0)[0]

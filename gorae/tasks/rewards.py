"""Ready reward functions for what many tasks ask: an exact answer, mathematics, JSON, code, a language.

They take what a task's own functions take, so a task imports those it wants. Mathematics is judged by math-verify,
which sets alarms of its process and so works in the main thread alone: graders run there.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from gorae.tasks.sandbox import RunLimits, judge_by_tests
from gorae.text import share_of_language

_FENCE = re.compile(r"^```[^\n`]*\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)


def reward_exact(contents: Sequence[str | None], answer: Sequence[Any]) -> list[float]:
    """1 for a content that is the answer, but for white space around it."""
    return _each(lambda content, right: content.strip() == str(right).strip(), contents, answer)


def reward_math(contents: Sequence[str | None], answer: Sequence[Any]) -> list[float]:
    """1 for a content whose last number, set or expression is equal to the answer, however it is written."""
    judge: Any = import_module("math_verify")  # with sympy and a parser of LaTeX, which takes a second
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # what can not be read is no answer, and no news

    def is_equal(content: str, right: Any) -> bool:
        wanted = judge.parse(f"${right}$")
        if not wanted:
            raise ValueError(f"the answer {right!r} is no mathematics that can be read")
        return judge.verify(wanted, judge.parse(content))

    return _each(is_equal, contents, answer)


def reward_json(contents: Sequence[str | None], schema: Sequence[Mapping[str, Any]]) -> list[float]:
    """1 for a content that is JSON, alone or in a fence, and valid by the row's JSON schema."""
    validators: Any = import_module("jsonschema").validators

    def is_valid(content: str, wanted: Mapping[str, Any]) -> bool:
        kind = validators.validator_for(wanted)
        kind.check_schema(wanted)
        try:
            return kind(wanted).is_valid(json.loads(_unfenced(content)))
        except (ValueError, RecursionError):
            return False

    return _each(is_valid, contents, schema)


def reward_code(contents: Sequence[str | None], tests: Sequence[str]) -> list[float]:
    """1 for Python, alone or in a fence, that passes the row's tests in the sandbox (`judge_by_tests`)."""
    limits = RunLimits(cpu_seconds=2, wall_seconds=4)
    return _each(lambda code, wanted: judge_by_tests(_unfenced(code), wanted, limits=limits).passed, contents, tests)


def reward_format(contents: Sequence[str | None]) -> list[float]:
    """1 for a reply that came to an end in the model's format, as R1 rewarded it (arXiv 2501.12948)."""
    return [float(content is not None) for content in contents]


def reward_language(completions: Sequence[Any], language: Sequence[str]) -> list[float | None]:
    """The share of letters in the script of the row's `language`, thinking included: R1's consistency reward.

    Knows ko, zh and en; None for a text without letters.
    """
    return [share_of_language(_text_of(one), wanted) for one, wanted in zip(completions, language, strict=True)]


def _text_of(completion: Any) -> str:
    """What the model wrote: a completion is a text, or behind messages a list of them, with those of tools."""
    if isinstance(completion, str):
        return completion
    written = [message for message in completion if message["role"] == "assistant"]
    return "".join(message.get("reasoning_content", "") + message["content"] for message in written)


def _each(is_right: Callable[[str, Any], bool], contents: Sequence[str | None], wanted: Sequence[Any]) -> list[float]:
    pairs = zip(contents, wanted, strict=True)
    return [float(content is not None and is_right(content, right)) for content, right in pairs]


def _unfenced(text: str) -> str:
    """What stands in the last fence of three backticks; the whole text if there is none."""
    fences = _FENCE.findall(text)
    return fences[-1] if fences else text

"""Environments as users of TRL have them: a class with `reset`, public methods that are tools, maybe `get_reward`.

Nouns: a Scene, an episode so far as it is told from outside; a Play, the same inside the process that holds the
environment. An environment is a stranger: only worker.py makes one. Knows no model.
"""

import asyncio
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from gorae.text import Message, Tool, ToolCall

OWN_METHODS = ("reset", "get_reward")  # public, and no tools
_JSON_TYPES = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    NoneType: "null",
    list: "array",
    dict: "object",
}
_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns|Raises|Yields|Examples?|Notes?):\s*$", re.MULTILINE)
_ARGUMENT = re.compile(r"^ *(\w+)(?: *\([^)]*\))?: *(.*(?:\n(?! *\w+(?: *\([^)]*\))?:).*)*)", re.MULTILINE)


@dataclass(frozen=True)
class Scene:
    """An episode so far: its number, the turns of model and tools, and what the environment said.

    said: what `reset` returned, then the result of each call that was made.
    """

    number: tuple[int, int]
    turns: Sequence[Message] = ()
    said: Sequence[str] = ()

    @property
    def calls(self) -> list[ToolCall]:
        return [call for turn in self.turns for call in turn.tool_calls]

    @property
    def answered(self) -> list[ToolCall]:
        """Calls that were made: all but those of a reply behind which the episode was ended."""
        return self.calls[: max(0, len(self.said) - 1)]


class Play:
    """An environment and what it has said; begins it with the columns of a row."""

    def __init__(self, environment: Any, row: Mapping[str, Any]) -> None:
        self.environment = environment
        self.tools = {tool.name for tool in tools_of(environment)}
        observation = awaited(environment.reset(**taken(environment.reset, row)))
        self.said = ["" if observation is None else str(observation)]

    def go_on(self, calls: Sequence[ToolCall], said: Sequence[str]) -> None:
        """Make the calls that have not been made. Raises ValueError where it has said something else than `said`."""
        for call in calls[len(self.said) - 1 :]:
            self.said.append(self.result(call))
        for known, again in zip(said, self.said, strict=False):
            if known != again:
                raise ValueError(
                    f"an environment that was begun anew said {again!r:.80} where it had said {known!r:.80}; it must "
                    "draw what is random from the columns of its row"
                )

    def result(self, call: ToolCall) -> str:
        """What a tool returns, as text; of one that raises, its error, as TRL tells it."""
        try:
            if call.name not in self.tools:
                raise ValueError(f"Tool {call.name} not found; there are {', '.join(sorted(self.tools)) or 'none'}.")
            arguments = json.loads(call.arguments)
            if not isinstance(arguments, dict):
                raise ValueError("The arguments must be a JSON object.")
            return str(awaited(getattr(self.environment, call.name)(**arguments)))
        except MemoryError:  # a limit of the process, no news for the model
            raise
        except Exception as error:
            return str({"error": str(error)})


def tools_of(environment: Any) -> list[Tool]:
    """Its public methods as tools. Raises ValueError where signature and docstring do not describe one."""
    methods = inspect.getmembers(type(environment), inspect.isfunction)
    names = [name for name, _ in methods if not name.startswith("_") and name not in OWN_METHODS]
    return [_tool(name, getattr(environment, name)) for name in names]


def taken(function: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """What of the offered a function takes by its signature."""
    parameters = inspect.signature(function).parameters.values()
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return dict(offered) if takes_all else {p.name: offered[p.name] for p in parameters if p.name in offered}


def _tool(name: str, method: Callable[..., Any]) -> Tool:
    told, hints = inspect.getdoc(method), get_type_hints(method)
    if not told:
        raise ValueError(f"the tool {name} has no docstring; say in one what it does, or begin its name with _")
    description, arguments = _read(told)
    properties, required = {}, []
    for parameter in inspect.signature(method).parameters.values():
        if parameter.name not in hints or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ValueError(f"the parameter {parameter} of the tool {name} has no type that JSON has; give it one")
        properties[parameter.name] = _schema(hints[parameter.name], f"{parameter} of the tool {name}")
        if parameter.name in arguments:
            properties[parameter.name]["description"] = arguments[parameter.name]
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    return Tool(name, description, {"type": "object", "properties": properties, "required": required})


def _read(docstring: str) -> tuple[str, dict[str, str]]:
    """A docstring in Google's form: what stands before its sections, and what its section of arguments says of each."""
    description, *sections = _SECTION.split(docstring)
    told = dict(zip(sections[0::2], sections[1::2], strict=True))
    listed = next((told[name] for name in ("Args", "Arguments", "Parameters") if name in told), "")
    found = {name: " ".join(text.split()) for name, text in _ARGUMENT.findall(listed)}
    return description.strip(), found


def _schema(hint: Any, told: str) -> dict[str, Any]:
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return {}
    if hint in _JSON_TYPES:
        return {"type": _JSON_TYPES[hint]}
    if origin is Literal:
        return {"enum": list(parts)}
    if origin in (Union, UnionType):
        return {"anyOf": [_schema(part, told) for part in parts]}
    if origin is list:
        return {"type": "array", "items": _schema(parts[0], told)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(parts[1], told)}
    raise ValueError(f"the parameter {told} has a type that JSON has not; take str, int, float, bool, list or dict")


def awaited(found: Any) -> Any:
    return asyncio.run(found) if inspect.iscoroutine(found) else found

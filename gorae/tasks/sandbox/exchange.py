"""What runs in the two sandboxes of a judgement: in one the answer, in the other its tests, a pipe each way between.

A script for the sandbox, whose stdin says which side it is; it takes nothing from gorae. Between the sides goes plain
data, a line of JSON at a time. Of anything else only a Handle goes, a number that stands for an object of the answer's:
so the tests compare values of their own, never objects that the answer made, and the answer never sees what they
compare with. Knows no sandbox: to the answer's side the pipe is all there is.
"""

import ast
import builtins
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import IO, Any

PASSED, FAILED, UNTESTABLE, BROKEN_OFF = 0, 1, 3, 4  # how the side of the tests ends

_SCALARS = (bool, int, float, str)
_COLLECTIONS: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_MODULES_OF_NUMBERS = {"complex": "builtins", "Decimal": "decimal", "Fraction": "fractions"}


class BrokenOffError(BaseException):
    """The answer's process is gone or speaks nonsense. No `except Exception` of a test may take it for an answer."""


class UntestableError(BaseException):
    """The tests ask for what can not be done here: they are at fault, not the answer."""


def encode(value: Any, number_of: Callable[[Any], int]) -> Any:
    """JSON for a value: scalars as they are, else [kind, content]; `number_of` names what is no plain data."""
    if value is None:
        return None
    for scalar in _SCALARS:
        if isinstance(value, scalar):
            return scalar(value)
    for kind, collection in _COLLECTIONS.items():
        if isinstance(value, collection):
            return [kind, [encode(item, number_of) for item in value]]
    if isinstance(value, dict):
        return ["dict", [[encode(key, number_of), encode(item, number_of)] for key, item in value.items()]]
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if _MODULES_OF_NUMBERS.get(type(value).__name__) == type(value).__module__:
        return [type(value).__name__, str(value)]
    return ["handle", number_of(value)]


def decode(data: Any, numbered: Callable[[int], Any]) -> Any:
    """The value again, of Python's own types whatever the sender wrote; `numbered` gives what a number stands for."""
    if not isinstance(data, list):
        return data
    kind, content = data
    if kind in _COLLECTIONS:
        return _COLLECTIONS[kind](decode(item, numbered) for item in content)
    if kind == "dict":
        return {decode(key, numbered): decode(item, numbered) for key, item in content}
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "handle":
        return numbered(content)
    return getattr(importlib.import_module(_MODULES_OF_NUMBERS[kind]), kind)(content)


class Answer:
    """The side of the answer: it looks up, calls and iterates what the tests ask for, until they ask no more."""

    def __init__(self) -> None:
        self.module = ModuleType("answer")
        self.objects: list[Any] = []

    def serve(self, requests: IO[str], replies: IO[str]) -> None:
        for line in requests:
            try:
                reply = ["value", *self._do(*json.loads(line))]
            except BaseException as error:
                reply = ["raised", _name_of(error), str(error)]
            replies.write(f"{json.dumps(reply)}\n")
            replies.flush()

    def _do(self, verb: str, data: Any) -> list[Any]:
        target, *arguments = decode(data, self.objects.__getitem__)
        if verb == "run":
            sys.modules["answer"] = self.module
            exec(compile(target, "answer.py", "exec"), self.module.__dict__)
            return [None]
        if verb == "name":
            return [self._encode(self.module.__dict__[target])]
        if verb == "attribute":
            return [self._encode(getattr(target, *arguments))]
        if verb == "items":
            return [self._encode(list(target))]
        positional, named = arguments
        value = target(*positional, **named)
        return [self._encode(value), self._encode(positional if value is None else ())]

    def _encode(self, value: Any) -> Any:
        return encode(value, self._keep)

    def _keep(self, value: Any) -> int:
        self.objects.append(value)
        return len(self.objects) - 1


class Handle:
    """An object of the answer's as the tests hold it: to call, to take attributes of and to iterate over."""

    def __init__(self, tests: "Tests", number: int) -> None:
        self._tests, self._number = tests, number

    def __call__(self, *positional: Any, **named: Any) -> Any:
        value, changed = self._tests.ask("call", self, positional, named)
        for given, after in zip(positional, changed, strict=False):  # what returns None may work in place
            if isinstance(given, list) and isinstance(after, list):
                given[:] = after
            elif isinstance(given, dict | set) and type(after) is type(given):
                given.clear()
                given.update(after)
        return value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._tests.ask("attribute", self, name)[0]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._tests.ask("items", self)[0])


class Tests(dict[str, Any]):
    """The side of the tests, and the names they see: their own, then Python's, and at last the answer's."""

    def __init__(self, requests: IO[str], replies: IO[str]) -> None:
        super().__init__(__name__="tests")
        self.requests, self.replies = requests, replies
        self.modules: set[str] = set()
        self.uses_answer = False

    def judge(self, answer: str, tests: str) -> None:
        """Returns where all tests hold; raises what a test raises."""
        try:
            tree = ast.parse(tests)
        except (SyntaxError, ValueError) as error:
            raise UntestableError(f"the tests are no Python: {error}") from error
        # A module that the tests take for granted is Python's: an answer's own math would find everything close.
        dotted = {getattr(node.value, "id", "") for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        self.modules = dotted & sys.stdlib_module_names
        self.ask("run", answer)
        exec(compile(tree, "tests", "exec"), self)
        if not self.uses_answer:
            raise UntestableError("the tests use no name of the answer's, so every answer would pass; call check()?")

    def __missing__(self, name: str) -> Any:
        if name.startswith("__"):
            raise KeyError(name)
        if hasattr(builtins, name):
            return getattr(builtins, name)
        if name in self.modules:
            return importlib.import_module(name)
        found = self.ask("name", name)[0]
        self.uses_answer = True
        return found

    def ask(self, verb: str, *data: Any) -> list[Any]:
        """What the answer replies: a value, and after a call what became of the arguments; or what it raises."""
        try:
            self.requests.write(f"{json.dumps([verb, encode(data, _number_of)])}\n")
            self.requests.flush()
            kind, *content = json.loads(self.replies.readline())
            if kind == "value":
                return [decode(item, lambda number: Handle(self, number)) for item in content]
            name, text = content
        except Exception as error:
            raise BrokenOffError(f"{type(error).__name__}: {error}") from error
        raise _exception(name)(text)


def _number_of(value: Any) -> int:
    if type(value) is not Handle:
        raise UntestableError(f"the tests hand the answer a {type(value).__name__}; hand over plain data")
    return value._number


def _name_of(error: BaseException) -> str:
    """Of Python's own exceptions the nearest that this one is."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")


def _exception(name: Any) -> type[Exception]:
    """The exception of that name, if a text makes one and no loop of a test would take it for its end."""
    kind = getattr(builtins, str(name), None)
    if not isinstance(kind, type) or not issubclass(kind, Exception):
        return Exception
    return RuntimeError if issubclass(kind, StopIteration | StopAsyncIteration | UnicodeError) else kind


def _say(error: BaseException, tests: str) -> None:
    """One line: what was raised, and the line of the tests it went through."""
    place, trace = "", error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == "tests":
            place = f" at line {trace.tb_lineno} of the tests: {tests.splitlines()[trace.tb_lineno - 1].strip()}"
        trace = trace.tb_next
    what = [str(error)] if isinstance(error, UntestableError) else [type(error).__name__, str(error)]
    said = ": ".join(filter(None, what)) + place
    print(said.replace("\n", " "), file=sys.stderr, flush=True)


def _judge(side: dict[str, Any], requests: IO[str], replies: IO[str]) -> int:
    try:
        Tests(requests, replies).judge(side["answer"], side["tests"])
    except SystemExit as end:  # unittest.main() ends so
        return FAILED if end.code else PASSED
    except BaseException as error:
        _say(error, side["tests"])
        if isinstance(error, UntestableError):
            return UNTESTABLE
        return BROKEN_OFF if isinstance(error, BrokenOffError) else FAILED
    return PASSED


def main() -> None:
    sys.set_int_max_str_digits(0)
    side = json.load(sys.stdin)
    reading, writing = open(side["read"], encoding="ascii"), open(side["write"], "w", encoding="ascii")  # noqa: SIM115
    if "tests" in side:
        os._exit(_judge(side, writing, reading))
    Answer().serve(reading, writing)
    os._exit(0)  # whatever threads and exit handlers the answer has left


if __name__ == "__main__":
    main()

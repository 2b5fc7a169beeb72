"""Where text comes from: a file or folder of .txt .md .py .jsonl .parquet, or the Python standard library.

A `Document` is one text or conversation and the place it was read from; `Sources` are the files a path stands for.
What cannot be read is an error with file, line and remedy, never left out. Knows no tokens.
"""

import json
import os
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from gorae.observe import log
from gorae.text import Message, ToolCall

_NOT_CODE_TO_LEARN = {
    *("site-packages", "dist-packages", "lib-dynload"),  # not the standard library's own
    *("test", "tests", "idlelib", "lib2to3", "turtledemo"),  # tests and applications
    "encodings",  # tables of characters
}


@dataclass(frozen=True)
class Document:
    """One text and its `source`: the file, with line or row where it holds several.

    A conversation has `messages`, and its `text` is their contents, one after the other.
    """

    text: str
    source: str
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Sources:
    """The files that will be read, in order, and how many others there are of each suffix."""

    files: tuple[Path, ...]
    skipped: Mapping[str, int]

    def describe_skipped(self) -> str:
        """Return one sentence about the files that are not read, or "" where every file is."""
        if not self.skipped:
            return ""
        return f"not read, because only {_READABLE} are: {_counts(self.skipped)}"


def find_sources(path: str | Path) -> Sources:
    """Return the files that `path`, a file or a folder with everything in it, stands for.

    Raises ValueError where there is nothing to read.
    """
    path = Path(path)
    if path.is_dir():
        entries = sorted(_walk(path))
    elif not path.exists():
        raise ValueError(f"{path}: no such file or folder; check the path")
    elif path.suffix.lower() not in _READERS:
        raise ValueError(f"{path}: a {_kind(path)} file cannot be read; give one of {_READABLE}, or a folder of them")
    else:
        entries = [path]
    files = tuple(entry for entry in entries if _kind(entry) in _READERS)
    skipped = Counter(_kind(entry) for entry in entries if _kind(entry) not in _READERS)
    if not files:
        held = _counts(skipped) or "nothing"
        raise ValueError(f"{path}: the folder holds {held}, but no {_READABLE}; put text there or give another folder")
    return Sources(files, skipped)


def read_documents(path: str | Path, *, report: Callable[[str], None] = log) -> Iterator[Document]:
    """Yield every document of a file or folder, in sorted order; files of other suffixes are counted and reported.

    A row of .jsonl or .parquet has `messages` or `text`; where it has both, `messages` counts.
    Raises ValueError, naming file, line and remedy, for what is empty, unreadable, not UTF-8 or not as described.
    """
    sources = find_sources(path)
    if sources.skipped:
        report(f"{path}: {sources.describe_skipped()}")
    for file in sources.files:
        try:
            yield from _READERS[file.suffix.lower()](file)
        except (OSError, pyarrow.ArrowException) as error:
            problem = getattr(error, "strerror", None) or str(error).rstrip(".")
            raise ValueError(f"{file}: cannot be read ({problem}); check that it is whole and open to you") from error


def standard_library_documents() -> Iterator[Document]:
    """Yield the sources of this interpreter's standard library, sorted, without tests, applications and tables.

    Raises ValueError where this Python came without its sources.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.py"))
    wanted = [name for name in names if _NOT_CODE_TO_LEARN.isdisjoint(name.split("/")) and "_sysconfig" not in name]
    if not wanted:
        raise ValueError(f"{folder}: this Python has no standard library sources; give your own text with --data PATH")
    for name in wanted:
        with tokenize.open(folder / name) as file:
            text = file.read()
        if text.strip():  # an empty __init__.py says nothing
            yield Document(text, f"stdlib/{name}")


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, onerror=_refuse_folder):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]  # not followed: they may go in circles
        yield from (Path(parent) / name for name in [*files, *links])


def _refuse_folder(error: OSError) -> None:
    raise ValueError(f"{error.filename}: cannot be listed ({error.strerror}); check that it is yours") from error


def _counts(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in sorted(numbers.items()))


def _kind(path: Path) -> str:
    return "link to a folder" if path.is_dir() else path.suffix.lower() or "without suffix"


def _read_text(path: Path) -> Iterator[Document]:
    text = _decode(path.read_bytes(), path)
    if not text.strip():
        raise ValueError(f"{path}: the file is empty; fill it, or move it away")
    yield Document(text, str(path))


def _read_jsonl(path: Path) -> Iterator[Document]:
    for place, row in read_rows(path, '{"text": ...} or {"messages": ...}'):
        yield _document(row, place)


def read_rows(path: Path, form: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield every row of a .jsonl file and its place; `form` is told to who wrote something that is no object.

    Raises ValueError, naming file, line and remedy, for what is empty, not UTF-8 or not JSON.
    """
    is_empty = True
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            text = _decode(line, path, line=number)
            if not text.strip():
                continue  # a blank line holds no row
            is_empty = False
            place = f"{path}, line {number}"
            yield place, _parse_json(text, place, form)
    if is_empty:
        raise ValueError(f"{path}: the file is empty; fill it, or move it away")


def _read_parquet(path: Path) -> Iterator[Document]:
    with pyarrow.parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        columns = [name for name in ("messages", "text") if name in names]
        if not columns:
            raise ValueError(f"{path}: it has the columns {', '.join(names)}; name one of them text or messages")
        if file.metadata.num_rows == 0:
            raise ValueError(f"{path}: the file has no rows; fill it, or move it away")
        number = 0
        for batch in file.iter_batches(columns=columns):
            for row in _rows(batch, f"{path}, rows {number + 1} to {number + batch.num_rows}"):
                number += 1
                yield _document(row, f"{path}, row {number}")


def _rows(batch: pyarrow.RecordBatch, place: str) -> list[dict[str, object]]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: a string is not UTF-8 ({error.reason}); write the file again as UTF-8") from error


_READERS: dict[str, Callable[[Path], Iterator[Document]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".py": _read_text,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
_READABLE = " ".join(_READERS)


def _decode(data: bytes, path: Path, *, line: int = 1) -> str:
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line += before.count(b"\n")
        column = error.start - (before.rfind(b"\n") + 1) + 1
        raise ValueError(
            f"{path}, line {line}, byte {column}: 0x{data[error.start]:02x} is not UTF-8; "
            f"convert the file (iconv -f ITS_ENCODING -t UTF-8), or move it away"
        ) from error


def _parse_json(text: str, place: str, form: str) -> dict[str, object]:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{place}: not valid JSON ({error.msg}, column {error.colno}); fix or remove the line"
        ) from error
    if not isinstance(row, dict):
        raise ValueError(f"{place}: a {type(row).__name__}, not an object; write {form}")
    return row


def _document(row: Mapping[str, object], place: str) -> Document:
    if row.get("messages") is not None:
        messages = read_messages(row["messages"], place)
        return Document("\n".join(message.content for message in messages), place, messages)
    if row.get("text") is None:
        keys = ", ".join(row) or "nothing"
        raise ValueError(f"{place}: the row holds {keys}; give it a text or messages, or remove it")
    text = read_string(row["text"], "text", place)
    if not text.strip():
        raise ValueError(f"{place}: text is empty; fill it, or remove the row")
    return Document(text, place)


def read_messages(value: object, place: str) -> tuple[Message, ...]:
    """Return a conversation in OpenAI's form. Raises ValueError, naming the place and what is wrong."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{place}: messages must be a list with at least one message; fix or remove the row")
    return tuple(_message(entry, f"{place}, message {index}") for index, entry in enumerate(value))


def _message(entry: object, place: str) -> Message:
    if not isinstance(entry, dict):
        raise ValueError(f'{place}: a {type(entry).__name__}, not an object; write {{"role": ..., "content": ...}}')
    calls, content = entry.get("tool_calls"), entry.get("content")
    if calls and content is None:  # as OpenAI writes a turn that only calls
        content = ""
    content = read_string(content, "content", place)
    reasoning, answered = (
        None if entry.get(key) is None else read_string(entry[key], key, place)
        for key in ("reasoning_content", "tool_call_id")
    )
    called = _calls(calls, place)
    try:
        role: Any = entry.get("role")  # an unknown one is refused
        return Message(role, content, reasoning, tuple(ToolCall(*call) for call in called), answered)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _calls(value: object, place: str) -> list[tuple[str, str, str]]:
    """Id, name and arguments of calls in OpenAI's form, where the arguments are JSON text; null is none."""
    if value is None:
        return []
    calls: list[Any] = value if isinstance(value, list) else [None]
    if not all(isinstance(call, dict) and isinstance(call.get("function"), dict) for call in calls):
        form = '[{"id": ..., "function": {"name": ..., "arguments": ...}}]'
        raise ValueError(f"{place}: tool_calls must be of the form {form}; fix or remove the row")
    return [
        (
            read_string(call.get("id"), "tool_calls.id", place),
            read_string(call["function"].get("name"), "tool_calls.function.name", place),
            read_string(call["function"].get("arguments"), "tool_calls.function.arguments", place),
        )
        for call in calls
    ]


def read_string(value: object, key: str, place: str) -> str:
    """Return a string of a row. Raises ValueError, naming the place, for what is none or no text."""
    if not isinstance(value, str):
        raise ValueError(f"{place}: {key} is a {type(value).__name__}, not a string; fix or remove the row")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{place}: {key} holds half a surrogate pair, which no text can; fix or remove the row"
        ) from error
    return value

"""Lines of JSON to tune on, in TRL's columns: conversations to imitate, and pairs of replies, one of them preferred.

A text in the place of messages is one: a prompt is a user's, a completion an assistant's. Knows no tokens.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from gorae.data.sources import read_messages, read_rows, read_string
from gorae.text import Message, Role, check_conversation

DEMONSTRATED = '{"messages": [...]} or {"prompt": ..., "completion": ...}'
PREFERRED = '{"prompt": ..., "chosen": ..., "rejected": ...}'

Row = Mapping[str, object]


@dataclass(frozen=True)
class Demonstration:
    """A conversation of which every assistant's message from number `first` on is to be imitated."""

    messages: tuple[Message, ...]
    first: int
    place: str


@dataclass(frozen=True)
class PreferredReply:
    """A conversation, the reply that was preferred to it, and another."""

    prompt: tuple[Message, ...]
    chosen: Message
    rejected: Message
    place: str


def read_demonstrations(path: str | Path) -> Iterator[Demonstration]:
    """Yield every conversation of a .jsonl file: `messages`, or `prompt` and `completion`.

    Of a completion only its own turns are to be imitated. Raises ValueError, naming file, line and remedy.
    """
    for place, row in read_rows(jsonl(path), DEMONSTRATED):
        if row.get("messages") is not None:
            messages, first = read_messages(row["messages"], place), 0
        else:
            require_keys(row, ("prompt", "completion"), DEMONSTRATED, place)
            prompt = turns(row, "prompt", "user", place)
            messages, first = prompt + turns(row, "completion", "assistant", place), len(prompt)
        require_sound(messages, row, place)
        if not any(message.role == "assistant" for message in messages[max(first, 1) :]):
            raise ValueError(f"{place}: no assistant's message follows another to imitate; add one, or remove the row")
        yield Demonstration(messages, first, place)


def read_preferences(path: str | Path) -> Iterator[PreferredReply]:
    """Yield every pair of a .jsonl file: `prompt`, `chosen`, `rejected`.

    Where the replies are whole conversations, what they begin with alike is the prompt, and none needs to be given.
    Raises ValueError, naming file, line and remedy.
    """
    for place, row in read_rows(jsonl(path), PREFERRED):
        require_keys(row, ("chosen", "rejected"), PREFERRED, place)
        chosen, rejected = (turns(row, key, "assistant", place) for key in ("chosen", "rejected"))
        prompt = turns(row, "prompt", "user", place) if row.get("prompt") is not None else ()
        pairs = zip(chosen[:-1], rejected[:-1], strict=False)
        shared = tuple(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if shared[: len(prompt)] != prompt:  # the conversations go on from it, where they do not repeat it
            shared, chosen, rejected = prompt + shared, prompt + chosen, prompt + rejected
        for key, messages in (("chosen", chosen), ("rejected", rejected)):
            if len(messages) != len(shared) + 1 or messages[-1].role != "assistant":
                raise ValueError(f"{place}: {key} must be one assistant's message after what both begin with")
        if chosen == rejected:
            raise ValueError(f"{place}: chosen and rejected are the same; remove the row")
        require_sound((*shared, chosen[-1]), row, place)
        if not shared:
            raise ValueError(f"{place}: there is no prompt; write {PREFERRED}")
        yield PreferredReply(shared, chosen[-1], rejected[-1], place)


def turns(row: Row, key: str, role: Role, place: str) -> tuple[Message, ...]:
    value = row[key]
    if isinstance(value, str):
        return (Message(role, read_string(value, key, place)),)
    return read_messages(value, f"{place}, {key}")


def jsonl(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file() or path.suffix.lower() != ".jsonl":
        raise ValueError(f"{path}: no .jsonl file is there; give one with a row of JSON a line")
    return path


def require_keys(row: Row, keys: tuple[str, ...], form: str, place: str) -> None:
    if missing := [key for key in keys if row.get(key) is None]:
        raise ValueError(f"{place}: the row has no {' and no '.join(missing)}; write {form}")


def require_sound(messages: tuple[Message, ...], row: Row, place: str) -> None:
    if row.get("tools"):
        raise ValueError(f"{place}: lists of tools are not learnt from; take tools out, or remove the row")
    try:
        check_conversation(messages)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error

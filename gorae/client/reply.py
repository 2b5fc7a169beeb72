"""What a server answers: a Reply, whole or as the Deltas of a stream, with the tool calls in it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ToolCall:
    """A call of one of the tools that were offered; `arguments` is JSON text as the model wrote it, sound or not."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ToolCallDelta:
    """What was added to call number `index` of the reply: first its id and name, then pieces of its arguments."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True)
class TokenLogprob:
    """A token of the reply and its log-probability; `data` are its bytes, None where it stands for none.

    `top` are the likeliest tokens in its place, where they were asked for, without lists of their own; `token_id` is
    its number, where the server tells it.
    """

    token: str
    logprob: float
    data: bytes | None = None
    top: tuple["TokenLogprob", ...] = ()
    token_id: int | None = None


@dataclass(frozen=True)
class Delta:
    """What one event of a stream added; `finish_reason` comes with the end, `usage` last, where it was asked for.

    `logprobs` and `reasoning_logprobs`, where asked for, are of the tokens sampled since the event before.
    """

    content: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    usage: Mapping[str, Any] | None = None
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    reasoning_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Reply:
    """A whole reply; `reasoning` is empty where the model did not think, or does not show it.

    `logprobs` and `reasoning_logprobs` are those of their tokens, where the server was asked for them.
    """

    content: str
    reasoning: str
    finish_reason: str | None
    usage: Mapping[str, Any] = field(default_factory=dict)
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    reasoning_logprobs: tuple[TokenLogprob, ...] = ()

    @property
    def message(self) -> dict[str, Any]:
        """The reply as a turn of the next request's messages, without its reasoning."""
        if not self.tool_calls:
            return {"role": "assistant", "content": self.content}
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in self.tool_calls
        ]
        return {"role": "assistant", "content": self.content or None, "tool_calls": calls}


def whole_reply(deltas: Iterable[Delta]) -> Reply:
    """Return the reply that a stream was of."""
    deltas = list(deltas)
    pieces: dict[int, list[ToolCallDelta]] = {}
    for piece in (piece for delta in deltas for piece in delta.tool_calls):
        pieces.setdefault(piece.index, []).append(piece)
    return Reply(
        content="".join(delta.content for delta in deltas),
        reasoning="".join(delta.reasoning for delta in deltas),
        finish_reason=next((delta.finish_reason for delta in reversed(deltas) if delta.finish_reason), None),
        usage=next((delta.usage for delta in reversed(deltas) if delta.usage), {}),
        tool_calls=tuple(_joined(pieces[index]) for index in sorted(pieces)),
        logprobs=tuple(one for delta in deltas for one in delta.logprobs),
        reasoning_logprobs=tuple(one for delta in deltas for one in delta.reasoning_logprobs),
    )


def _joined(pieces: Sequence[ToolCallDelta]) -> ToolCall:
    return ToolCall(
        next((piece.id for piece in pieces if piece.id), ""),
        next((piece.name for piece in pieces if piece.name), ""),
        "".join(piece.arguments for piece in pieces),
    )

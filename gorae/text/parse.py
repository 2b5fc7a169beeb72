"""Reading a reply back: text → reasoning, answer and tool calls, whole or as it streams in, in any `ChatFormat`.

The reader is lenient, because models err: what it cannot place becomes content, unfinished thinking stays reasoning. A
tool call counts from where its name and the opening of its arguments stand; what comes before that and fits no call is
content. `Reply.complete` is strict: it says whether the text has exactly the format. Knows no token ids.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

from gorae.text.formats import CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, GORAE, TOOL_TOKENS, ChatFormat, ToolFormat
from gorae.text.messages import END_THINK, THINK, TOOL_NAME, Mode, Part, ToolCall

MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class ToolCallDelta:
    """What was added to call number `index` of the reply: first its id and name, then pieces of its arguments."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True)
class Delta:
    """What a piece of streamed text added to the reasoning, the content and the tool calls."""

    reasoning: str = ""
    content: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()

    def __add__(self, other: "Delta") -> "Delta":
        """Both in their order; pieces of one call's arguments are joined."""
        calls = list(self.tool_calls)
        for added in other.tool_calls:
            last = calls[-1] if calls else None
            if last is not None and last.index == added.index:
                calls[-1] = ToolCallDelta(last.index, last.id, last.name, last.arguments + added.arguments)
            else:
                calls.append(added)
        return Delta(self.reasoning + other.reasoning, self.content + other.content, tuple(calls))


@dataclass(frozen=True)
class Reply:
    """A reply taken apart: `reasoning` is None where there was no thinking, "" where it was empty."""

    reasoning: str | None
    content: str
    complete: bool
    tool_calls: tuple[ToolCall, ...] = ()


class ReplyParser:
    """Separates reasoning, content and tool calls in text that arrives in pieces; the cuts do not change the result.

    In mode "think" the text begins inside the reasoning, in "direct" with the content: the prompt holds what precedes.
    `call_id` names the calls by their number in the reply, from 0.
    """

    def __init__(
        self, mode: Mode = "free", chat_format: ChatFormat = GORAE, *, call_id: Callable[[int], str] = "call_{}".format
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode={mode!r} is not a mode; use one of {', '.join(MODES)}")
        self.has_reasoning = mode == "think"
        self.num_calls = 0
        self._format = chat_format
        self._call_id = call_id
        self._lines_before_end, _, lines_after_end = chat_format.thinking_closing.partition(END_THINK)
        self._newlines_after_end = len(lines_after_end)
        self._held = ""
        is_open = mode == "free" and chat_format.thinks != "never"
        self._read = self._read_reasoning if mode == "think" else self._read_opening if is_open else self._read_content
        self._newlines_to_drop = 0

    def feed(self, text: str) -> Delta:
        """Take the next piece of text and return what is certain by now; the rest is held back."""
        self._held += text
        total = Delta()
        while True:
            reader, num_held = self._read, len(self._held)
            total += reader()
            if reader == self._read and num_held == len(self._held):
                return total

    def finish(self) -> Delta:
        """Return what was held back, now that no more text comes."""
        delta, rest, self._held = self.feed(""), self._held, ""
        if not rest:
            return delta
        if self._read == self._read_reasoning:
            return delta + Delta(reasoning=rest)
        if self._read == self._read_arguments:
            return delta + self._arguments(rest)
        return delta + Delta(content=rest)

    # Each reader takes what is certain from the front of the held text and says what comes next by setting `_read`.

    def _read_opening(self) -> Delta:
        if self._held.startswith(THINK):
            self.has_reasoning = True
            self._held = self._held.removeprefix(THINK)
            self._newlines_to_drop = len(self._format.thinking_opening.removeprefix(THINK))
            self._read = self._read_reasoning
        elif self._held.startswith(END_THINK):
            self._held = self._held.removeprefix(END_THINK)
            self._read = self._read_content
        elif not (THINK.startswith(self._held) or END_THINK.startswith(self._held)):
            self._read = self._read_content
        return Delta()

    def _read_reasoning(self) -> Delta:
        self._drop_newlines()
        before, tag, after = self._held.partition(END_THINK)
        if tag:
            self._held, self._newlines_to_drop = after, self._newlines_after_end
            self._read = self._read_content
            return Delta(reasoning=before.removesuffix(self._lines_before_end))
        return Delta(reasoning=self._take_all_but(self._lines_before_end + END_THINK, END_THINK))

    def _read_content(self) -> Delta:
        self._drop_newlines()
        if self._format.tools is None:
            content, self._held = self._held, ""
            return Delta(content=content)
        place = self._held.find(CALLS_BEGIN)
        if place < 0:
            return Delta(content=self._take_all_but(CALLS_BEGIN))
        content, self._held = self._held[:place], self._held[place:]
        self._read = self._read_first_call
        return Delta(content=content)

    def _read_first_call(self) -> Delta:
        verdict = self._call_opening(CALLS_BEGIN)
        if verdict == "no":
            self._held = self._held.removeprefix(CALLS_BEGIN)
            self._read = self._read_content
            return Delta(content=CALLS_BEGIN)
        return verdict if isinstance(verdict, Delta) else Delta()

    def _read_next_call(self) -> Delta:
        """After a call comes another one or the end of the calls, with any white space before it."""
        framing = self._held.lstrip()
        space = self._held[: len(self._held) - len(framing)]
        if framing.startswith(CALLS_END):
            self._held = framing.removeprefix(CALLS_END)
            self._read = self._read_content
        elif not CALLS_END.startswith(framing):
            verdict = self._call_opening(space)
            if verdict == "no":
                self._read = self._read_content
            elif isinstance(verdict, Delta):
                return verdict
        return Delta()

    def _read_arguments(self) -> Delta:
        closing = self._tools.arguments_closing
        before, tag, after = self._held.partition(CALL_END)
        if tag:
            self._held = after
            self._read = self._read_next_call
            return self._arguments(before.removesuffix(closing))
        return self._arguments(self._take_all_but(closing + CALL_END, CALL_END))

    def _call_opening(self, before: str) -> "Delta | str":
        """Take the opening of a call, up to its arguments; "maybe" where more text decides, "no" where none can."""
        frame = before + CALL_BEGIN + self._tools.call_opening
        if not self._held.startswith(frame):
            return "maybe" if frame.startswith(self._held) else "no"
        rest = self._held.removeprefix(frame)
        name = TOOL_NAME.match(rest)
        after = rest[name.end() :] if name else rest
        if not name:
            return "no" if rest else "maybe"
        if not after.startswith(self._tools.arguments_opening):
            return "maybe" if self._tools.arguments_opening.startswith(after) else "no"
        self._held = after.removeprefix(self._tools.arguments_opening)
        self._read = self._read_arguments
        self.num_calls += 1
        index = self.num_calls - 1
        return Delta(tool_calls=(ToolCallDelta(index, self._call_id(index), name[0]),))

    @property
    def _tools(self) -> ToolFormat:
        assert self._format.tools is not None, "only a format with tools reads calls"
        return self._format.tools

    def _arguments(self, text: str) -> Delta:
        return Delta(tool_calls=(ToolCallDelta(self.num_calls - 1, arguments=text),)) if text else Delta()

    def _take_all_but(self, *tags: str) -> str:
        """Take the held text, except an end that may turn out to be the beginning of one of `tags`."""
        certain = len(self._held) - len(possible_start(self._held, tags))
        taken, self._held = self._held[:certain], self._held[certain:]
        return taken

    def _drop_newlines(self) -> None:
        while self._newlines_to_drop and self._held:
            if self._held[0] != "\n":
                self._newlines_to_drop = 0
                return
            self._held = self._held[1:]
            self._newlines_to_drop -= 1


def parse_reply(text: str, mode: Mode = "free", chat_format: ChatFormat = GORAE) -> Reply:
    """Take a whole reply apart; `mode` is the one its prompt was made with, EOS is not part of `text`."""
    parser = ReplyParser(mode, chat_format)
    whole = parser.feed(text) + parser.finish()
    reasoning = whole.reasoning if parser.has_reasoning else None
    calls = tuple(ToolCall(call.id or "", call.name or "", call.arguments) for call in whole.tool_calls)
    written = "".join(piece for piece, _ in reply_parts(reasoning, whole.content, calls, chat_format))
    stray_tags = (THINK, END_THINK, *(TOOL_TOKENS if chat_format.tools else ()))
    has_stray_tag = THINK in (reasoning or "") or any(tag in whole.content for tag in stray_tags)
    has_answer = bool(whole.content.strip() or calls) and all(call.is_sound for call in calls)
    is_exact = chat_format.opening(mode) + text == written
    return Reply(reasoning, whole.content, is_exact and not has_stray_tag and has_answer, calls)


def parse_after_results(text: str, chat_format: ChatFormat = GORAE) -> Reply:
    """Take a reply to tool results apart: nothing was opened for it, so what does not open thinking is an answer."""
    return parse_reply(text, "free" if text.startswith((THINK, END_THINK)) else "direct", chat_format)


def reply_parts(
    reasoning: str | None, content: str, calls: Sequence[ToolCall] = (), chat_format: ChatFormat = GORAE
) -> list[Part]:
    """Return a reply as the model writes it after a "free" prompt, without EOS."""
    if reasoning is None:
        parts = [(chat_format.direct_opening, True)]
    else:
        parts = [(chat_format.thinking_opening, True), (reasoning, False), (chat_format.thinking_closing, True)]
    parts.append((content, False))
    if calls and chat_format.tools is None:
        raise ValueError(f"the format {chat_format.name} has no tool calls; leave them out")
    if calls and chat_format.tools is not None:
        parts += chat_format.tools.write_calls(calls)
    return [part for part in parts if part[0]]


def possible_start(text: str, tags: Sequence[str]) -> str:
    """Return the longest end of `text` that is the beginning, not the whole, of one of `tags`."""
    longest = min(len(text), max((len(tag) for tag in tags), default=1) - 1)
    ends = (text[-length:] for length in range(longest, 0, -1))
    return next((end for end in ends if any(tag != end and tag.startswith(end) for tag in tags)), "")

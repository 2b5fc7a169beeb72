"""A whole conversation in a built-in format: messages → the parts of a prompt, and the parts back → messages.

Writing drops what DeepSeek's templates drop: the reasoning of earlier turns and the ids of tool calls. Reading numbers
the calls afresh (call_0, call_1, …), so a conversation comes back as it was written. The list of tools is part of the
system's text and stays in it.
"""

import re
from collections.abc import Sequence
from itertools import groupby

from gorae.text.formats import OUTPUT_BEGIN, OUTPUT_END, OUTPUTS_BEGIN, OUTPUTS_END, TOOL_TOKENS, ChatFormat
from gorae.text.guard import Guard
from gorae.text.messages import (
    ASSISTANT,
    BOS,
    CONTROL_TOKENS,
    EOS,
    USER,
    Message,
    Mode,
    Part,
    Tool,
    ToolCall,
    check_conversation,
    check_prompt,
    in_call_order,
)
from gorae.text.parse import parse_reply, reply_parts

_FRAME = re.compile(f"({'|'.join((USER, ASSISTANT, EOS, OUTPUTS_BEGIN, OUTPUTS_END, OUTPUT_BEGIN, OUTPUT_END))})")
_WRITTEN_TOKENS = (*CONTROL_TOKENS, *TOOL_TOKENS)


def write_prompt(
    messages: Sequence[Message], chat_format: ChatFormat, *, tools: Sequence[Tool] = (), mode: Mode = "free"
) -> list[Part]:
    """Return the prompt that asks for the next reply, in parts.

    Raises ValueError for a conversation nobody can answer, or that the format cannot hold.
    """
    check_prompt(messages)
    parts = write_conversation(messages, chat_format, tools=tools)
    if messages[-1].role == "user":
        chosen: Mode = "direct" if mode == "free" and chat_format.thinks == "caller" else mode
        opening = chat_format.opening("think" if chat_format.thinks == "always" else chosen)
        parts += [(ASSISTANT, True), (opening, True)]
    return [part for part in parts if part[0]]


def write_conversation(
    messages: Sequence[Message], chat_format: ChatFormat, *, tools: Sequence[Tool] = ()
) -> list[Part]:
    """Return the conversation in parts, each assistant's turn closed by EOS."""
    check_conversation(messages)
    _check_writable(messages, chat_format, tools)
    system = messages[0].content if messages[0].role == "system" else ""
    parts = [(BOS, True), (system, False)]
    if tools and chat_format.tools is not None:
        parts += chat_format.tools.write_tools(tools)
    last_role = "system"
    for role, turns in groupby(in_call_order(messages), key=lambda message: message.role):
        if role == "tool" and chat_format.tools is not None:
            parts += chat_format.tools.write_results([message.content for message in turns])
        elif role == "user":
            parts += [part for message in turns for part in ((USER, True), (message.content, False))]
        elif role == "assistant":
            (message,) = turns
            written = reply_parts(None, message.content, message.tool_calls, chat_format)
            if last_role == "user":
                parts.append((ASSISTANT, True))
            elif written[:1] == [(chat_format.direct_opening, True)]:
                del written[0]  # after a tool's result nothing is opened
            parts += [*written, (EOS, True)]
        last_role = role
    return [part for part in parts if part[0]]


def read_conversation(parts: Sequence[Part], chat_format: ChatFormat) -> list[Message]:
    """Return the messages that were written as these parts; an opened reply at the end is not yet a message.

    Raises ValueError for parts in which no conversation of this format stands.
    """
    guard = Guard((text for text, _ in parts), _WRITTEN_TOKENS)
    text = "".join(text if is_ours else guard.close(text) for text, is_ours in parts)
    if not text.startswith(BOS):
        raise ValueError(f"a conversation begins with {BOS}, this one with {text[:40]!r}; give it whole")
    system, *framed = _FRAME.split(text.removeprefix(BOS))
    messages = [Message("system", guard.open(system))] if system else []
    waiting: list[str] = []  # the ids of calls without a result
    num_calls = 0
    turns = list(zip(framed[0::2], framed[1::2], strict=True))
    for place, (frame, content) in enumerate(turns):
        is_ended = turns[place + 1][0] == EOS if place + 1 < len(turns) else False
        if frame == USER:
            messages.append(Message("user", guard.open(content)))
        elif frame == OUTPUT_BEGIN:
            if not waiting:
                raise ValueError(f"the tool's result {guard.open(content)[:40]!r} answers no call; a call precedes it")
            messages.append(Message("tool", guard.open(content), tool_call_id=waiting.pop(0)))
        elif frame in (ASSISTANT, OUTPUT_END, OUTPUTS_END) and is_ended:
            reply = parse_reply(content, "direct" if chat_format.thinks == "never" else "free", chat_format)
            calls = tuple(
                ToolCall(f"call_{num_calls + number}", guard.open(call.name), guard.open(call.arguments))
                for number, call in enumerate(reply.tool_calls)
            )
            num_calls += len(calls)
            waiting = [call.id for call in calls]
            reasoning = None if reply.reasoning is None else guard.open(reply.reasoning)
            messages.append(Message("assistant", guard.open(reply.content), reasoning, calls))
    return messages


def _check_writable(messages: Sequence[Message], chat_format: ChatFormat, tools: Sequence[Tool]) -> None:
    uses_tools = bool(tools) or any(message.role == "tool" or message.tool_calls for message in messages)
    if uses_tools and chat_format.tools is None:
        raise ValueError(f"the format {chat_format.name} has no tools; send no tools and no tool messages")
    if "system" in (message.role for message in messages) and len(messages) == 1:
        raise ValueError("a conversation has only a system message; add one with role user")
    for index, message in enumerate(messages):
        before = messages[index - 1].role if index else "nothing"
        if message.role == "assistant" and before not in ("user", "tool"):
            raise ValueError(
                f"message {index} has role assistant and follows {before}; in {chat_format.name} a reply follows a "
                "user's message or a tool's result"
            )

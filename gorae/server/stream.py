"""From sampled tokens to what a client reads: the growing reply, whole or as server-sent events.

Nouns: ReplyReader (tokens in, deltas out), StopFilter, EventStream. Knows no engine beyond the events it is handed.
"""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from gorae.server.engine_thread import EngineFailedError, Generation, TokenEvent
from gorae.server.logprobs import LogprobList
from gorae.server.schema import ApiError
from gorae.text import Delta, Mode, ReplyParser, StreamDecoder, Tokenizer, ToolCallDelta, possible_start

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


class StopFilter:
    """Passes text on up to the first stop string; keeps back an end that may still become one."""

    def __init__(self, stop_strings: Sequence[str]) -> None:
        self.has_stopped = False
        self._stop_strings = stop_strings
        self._held = ""

    def feed(self, text: str) -> str:
        if self.has_stopped:
            return ""
        self._held += text
        places = [place for stop in self._stop_strings if (place := self._held.find(stop)) >= 0]
        self.has_stopped = bool(places)
        cut = min(places) if places else len(self._held) - len(possible_start(self._held, self._stop_strings))
        passed, self._held = self._held[:cut], self._held[cut:]
        return passed

    def finish(self) -> str:
        return "" if self.has_stopped else self._held


class ReplyReader:
    """One reply as it grows, token by token. Stop strings are looked for in the answer, never in the reasoning."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        mode: Mode,
        *,
        stop_strings: Sequence[str],
        num_prompt_tokens: int,
        reads_calls: bool = False,  # else a call stays text in the answer
        lists_logprobs: bool = False,
    ) -> None:
        self.finish_reason: str | None = None
        self.logprobs = LogprobList(tokenizer)
        self._lists_logprobs = lists_logprobs
        self._tokenizer = tokenizer
        self._decoder = StreamDecoder(tokenizer)
        chat_format = tokenizer.chat_format if reads_calls else replace(tokenizer.chat_format, tools=None)
        self._parser = ReplyParser(mode, chat_format, call_id=lambda _: f"call_{uuid.uuid4().hex}")
        self._stop = StopFilter(stop_strings)
        self._num_prompt_tokens = num_prompt_tokens
        self._num_cached = 0
        self._num_tokens = 0
        self._num_reasoning_tokens = 0
        self._is_reasoning = mode == "think"

    async def read(self, generation: AsyncIterable[TokenEvent]) -> AsyncIterator[Delta]:
        """Yield what each token adds, until the engine or a stop string ends the reply."""
        async for event in generation:
            self._count(event)
            self._num_cached = event.num_cached
            yield self._filtered(self._parser.feed(self._decoder.push([event.token_id])))
            if self._stop.has_stopped:
                self.finish_reason = "stop"
                return
            self.finish_reason = event.finish_reason
        rest = self._parser.feed(self._decoder.finish()) + self._parser.finish()
        yield self._filtered(rest) + Delta(content=self._stop.finish())
        if self._parser.num_calls and self.finish_reason == "stop":
            self.finish_reason = "tool_calls"

    def usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self._num_prompt_tokens,
            "completion_tokens": self._num_tokens,
            "total_tokens": self._num_prompt_tokens + self._num_tokens,
            "prompt_cache_hit_tokens": self._num_cached,
            "prompt_cache_miss_tokens": self._num_prompt_tokens - self._num_cached,
            "completion_tokens_details": {"reasoning_tokens": self._num_reasoning_tokens},
        }

    def _filtered(self, delta: Delta) -> Delta:
        content = self._stop.feed(delta.content)
        return Delta(delta.reasoning, content, () if self._stop.has_stopped else delta.tool_calls)

    def _count(self, event: TokenEvent) -> None:
        """The tags count as reasoning where they enclose some."""
        if self._num_tokens == 0 and event.token_id == self._tokenizer.think_id:
            self._is_reasoning = True
        self._num_tokens += 1
        self._num_reasoning_tokens += self._is_reasoning
        if self._lists_logprobs:
            self.logprobs.add(event, is_reasoning=self._is_reasoning)
        self._is_reasoning = self._is_reasoning and event.token_id != self._tokenizer.end_think_id


async def whole_reply(reader: ReplyReader, generation: Generation, *, model: str) -> dict[str, Any]:
    """Return the reply as one chat.completion object."""
    deltas = [delta async for delta in reader.read(generation)]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(delta.content for delta in deltas),
        "reasoning_content": "".join(delta.reasoning for delta in deltas) or None,
    }
    called = sum((Delta(tool_calls=delta.tool_calls) for delta in deltas if delta.tool_calls), Delta()).tool_calls
    if called:
        calls = [{key: value for key, value in _call(call).items() if key != "index"} for call in called]
        message |= {"content": message["content"] or None, "tool_calls": calls}
    logprobs = reader.logprobs.take()
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": reader.finish_reason}
    return _head("chat.completion", model) | {"choices": [choice], "usage": reader.usage()}


async def chunks(
    reader: ReplyReader, generation: Generation, *, model: str, include_usage: bool
) -> AsyncIterator[dict[str, Any]]:
    """Yield the reply as chat.completion.chunk objects: the role, each delta, the reason it ended, then the usage.

    The log-probabilities of tokens come with the next chunk: not every token completes a character.
    """
    head = _head("chat.completion.chunk", model) | ({"usage": None} if include_usage else {})

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": reader.logprobs.take(), "finish_reason": finish_reason}
        return head | {"choices": [choice]}

    yield chunk({"role": "assistant", "content": "", "reasoning_content": None})
    async for delta in reader.read(generation):
        if delta.reasoning:
            yield chunk({"content": None, "reasoning_content": delta.reasoning})
        if delta.content:
            yield chunk({"content": delta.content, "reasoning_content": None})
        if delta.tool_calls:
            calls = [_call(call) for call in delta.tool_calls]
            yield chunk({"content": None, "reasoning_content": None, "tool_calls": calls})
    yield chunk({"content": None, "reasoning_content": None}, reader.finish_reason)
    if include_usage:
        yield head | {"choices": [], "usage": reader.usage()}


class EventStream(StreamingResponse):
    """Sends chunks as server-sent events; whoever leaves early ends the request in the engine."""

    def __init__(
        self, chunks: AsyncIterator[dict[str, Any]], generation: Generation, *, keep_alive_seconds: float
    ) -> None:
        events = _with_keep_alive(_events(chunks), seconds=keep_alive_seconds)
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._generation.cancel()


async def _events(chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield _event(chunk)
        yield DONE
    except EngineFailedError as error:  # the status line has gone out, so the error travels in the stream
        yield _event(ApiError(500, f"the server failed: {error}").body())


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


async def _with_keep_alive(events: AsyncIterator[bytes], *, seconds: float) -> AsyncIterator[bytes]:
    """Pass events on and fill every `seconds` of silence with a comment, so that no proxy takes it for the end."""
    upcoming = asyncio.ensure_future(anext(events))
    try:
        while True:
            done, _ = await asyncio.wait([upcoming], timeout=seconds)
            if not done:
                yield KEEP_ALIVE
                continue
            try:
                event = upcoming.result()
            except StopAsyncIteration:
                return
            upcoming = asyncio.ensure_future(anext(events))
            yield event
    finally:
        upcoming.cancel()


def _call(delta: ToolCallDelta) -> dict[str, Any]:
    """A call as the wire has it: id, type and name come once, with the first piece of the arguments."""
    if delta.name is None:
        return {"index": delta.index, "function": {"arguments": delta.arguments}}
    function = {"name": delta.name, "arguments": delta.arguments}
    return {"index": delta.index, "id": delta.id, "type": "function", "function": function}


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}

"""Texts and token ids continued as they stand, without a template: OpenAI's older completions format.

Nouns: CompletionRequest (a checked request) and Continuation (one prompt's, as it grows). Evaluation harnesses and
`gorae parity` ask so: with `echo` a prompt's own tokens are listed with their log-probabilities. Knows no connection.
"""

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

import msgspec

from gorae.engine import SamplingParams
from gorae.server.engine_thread import Generation, TokenEvent
from gorae.server.logprobs import LEAST
from gorae.server.schema import ApiError, Drawn, read_fields
from gorae.server.stream import StopFilter
from gorae.text import StreamDecoder, Tokenizer

EXAMPLES = {
    "prompt": '"Once upon"; token ids are taken as well, and lists of either',
    "max_tokens": "16",
    "echo": "true",
    "logprobs": "1",
    "return_token_ids": "true",
    "return_tokens_as_token_ids": "true",
}
NEUTRAL: dict[str, list[Any]] = {"n": [1], "best_of": [1], "suffix": [""]}


class CompletionRequest(Drawn, frozen=True, kw_only=True):
    """A completions request with every field checked; the last two are named as vLLM names them."""

    prompt: Any
    max_tokens: Annotated[int, msgspec.Meta(ge=0)] = 16
    echo: bool = False
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False

    def prompts(self, tokenizer: Tokenizer) -> list[list[int]]:
        """The token ids of every prompt. Raises ApiError for one that is neither text nor ids."""
        is_one = isinstance(self.prompt, str) or (isinstance(self.prompt, list) and all(map(is_id, self.prompt)))
        several = [self.prompt] if is_one else self.prompt
        if not isinstance(several, list) or not several:
            raise bad_prompt()
        return [encoded(one, tokenizer) for one in several]

    def params(self, *, room: int) -> SamplingParams:
        """What the engine is asked for; it samples at least one token, which is dropped where none is wanted."""
        return SamplingParams(
            max_tokens=max(1, min(room, self.max_tokens)),
            logprobs=self.logprobs,
            prompt_logprobs=self.logprobs if self.echo else None,
            **self.drawn(),
        )


def is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def encoded(prompt: Any, tokenizer: Tokenizer) -> list[int]:
    """A text begins as the tokenizer's texts do; what it holds never becomes a control token."""
    ids = [*tokenizer.text_start_ids, *tokenizer.encode(prompt)] if isinstance(prompt, str) else prompt
    if not isinstance(ids, list) or not ids or not all(map(is_id, ids)):
        raise bad_prompt()
    return ids


def bad_prompt() -> ApiError:
    return ApiError(
        400, f'prompt must be texts or token ids, none empty; send "prompt": {EXAMPLES["prompt"]}', param="prompt"
    )


def read_completion(body: bytes) -> CompletionRequest:
    """Check a request's body; raises ApiError (400) for anything that is not a request we can honour in full."""
    return read_fields(body, CompletionRequest, neutral=NEUTRAL, examples=EXAMPLES)


class Continuation:
    """What one prompt becomes; `index` is its place among the choices."""

    def __init__(self, tokenizer: Tokenizer, wanted: CompletionRequest, prompt_ids: list[int], index: int) -> None:
        self.prompt_ids, self.num_tokens = prompt_ids, 0
        self._tokenizer, self._wanted, self._index = tokenizer, wanted, index
        self._decoder, self._stop = StreamDecoder(tokenizer), StopFilter(wanted.stop_strings)
        self._finish_reason: str | None = None
        self._token_ids: list[int] = []
        self._listed: list[tuple[int, float | None, dict[str, float] | None]] = []

    async def read(self, generation: Generation) -> AsyncIterator[str]:
        """Yield the text as it grows, up to a stop text; the prompt's first where it is to be echoed."""
        is_first = True
        async for event in generation:
            if is_first and self._wanted.echo:
                self._list_prompt(event)
                yield self._tokenizer.decode(self.prompt_ids)
            is_first = False
            if not self._wanted.max_tokens:
                self._finish_reason = "length"
                return
            self.num_tokens += 1
            self._token_ids.append(event.token_id)
            self._list(event.token_id, event.logprob, event.top_logprobs)
            yield self._stop.feed(self._decoder.push([event.token_id]))
            self._finish_reason = "stop" if self._stop.has_stopped else event.finish_reason
            if self._stop.has_stopped:
                return
        yield self._stop.feed(self._decoder.finish()) + self._stop.finish()

    def choice(self, text: str) -> dict[str, Any]:
        """A piece of text as the wire has it, with what has been listed since the last one."""
        listed, self._listed = self._listed, []
        ids, self._token_ids = self._token_ids, []
        told = {"index": self._index, "text": text, "logprobs": None, "finish_reason": self._finish_reason}
        if self._wanted.logprobs is not None:
            told["logprobs"] = {
                "tokens": [self._name(token_id) for token_id, _, _ in listed],
                "token_logprobs": [logprob for _, logprob, _ in listed],
                "top_logprobs": [top for _, _, top in listed] if self._wanted.logprobs else None,
            }
        return told | ({"token_ids": ids} if self._wanted.return_token_ids else {})

    def _list_prompt(self, event: TokenEvent) -> None:
        known = event.prompt_logprobs or [0.0] * (len(self.prompt_ids) - 1)
        tops = event.prompt_top_logprobs or [None] * len(known)
        self._listed.append((self.prompt_ids[0], None, None))
        for token_id, logprob, top in zip(self.prompt_ids[1:], known, tops, strict=True):
            self._list(token_id, logprob, top)

    def _list(self, token_id: int, logprob: float, top: Any) -> None:
        named = {self._name(other): max(value, LEAST) for other, value in (top or {}).items()}
        self._listed.append((token_id, max(logprob, LEAST), named or None))

    def _name(self, token_id: int) -> str:
        is_numbered = self._wanted.return_tokens_as_token_ids
        return f"token_id:{token_id}" if is_numbered else self._tokenizer.piece(token_id)[0]


async def whole_completion(
    continuations: Sequence[Continuation], generations: Sequence[Generation], *, model: str
) -> dict[str, Any]:
    """Return all continuations as one text_completion object."""
    choices = []
    for one, generation in zip(continuations, generations, strict=True):
        texts = [text async for text in one.read(generation)]
        choices.append(one.choice("".join(texts)))
    return head(model) | {"choices": choices, "usage": usage(continuations)}


async def completion_chunks(
    one: Continuation, generation: Generation, *, model: str, include_usage: bool
) -> AsyncIterator[dict[str, Any]]:
    """Yield one continuation as text_completion objects, each with a piece, then the usage."""
    same = head(model) | ({"usage": None} if include_usage else {})
    async for text in one.read(generation):
        yield same | {"choices": [one.choice(text)]}
    yield same | {"choices": [one.choice("")]}
    if include_usage:
        yield same | {"choices": [], "usage": usage([one])}


def usage(continuations: Sequence[Continuation]) -> dict[str, int]:
    read, written = (
        sum(map(count, continuations)) for count in (lambda one: len(one.prompt_ids), lambda one: one.num_tokens)
    )
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def head(model: str) -> dict[str, Any]:
    kind = "text_completion"
    return {"id": f"cmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}

"""The thread that owns the engine: requests come in from asyncio, tokens go back to it.

Nouns: EngineThread (one for each engine) and Generation (the events of one request). Only this thread touches the
engine, which is handed in and needs no more than add, cancel, step and has_work. Knows nothing of HTTP or of text.
"""

import asyncio
import contextlib
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Protocol

from gorae.engine import SamplingParams, ShortageError
from gorae.observe import log


class TokenEvent(Protocol):
    """One sampled token of one request; `finish_reason` is set on its last, `num_cached` counts known prompt tokens.

    `top_logprobs`, where they were asked for, are the likeliest tokens in its place; `prompt_logprobs` come with the
    first token, of the prompt's tokens behind its first.
    """

    @property
    def request_id(self) -> int: ...
    @property
    def token_id(self) -> int: ...
    @property
    def finish_reason(self) -> str | None: ...
    @property
    def num_cached(self) -> int: ...
    @property
    def logprob(self) -> float: ...
    @property
    def top_logprobs(self) -> Mapping[int, float] | None: ...
    @property
    def prompt_logprobs(self) -> Sequence[float] | None: ...
    @property
    def prompt_top_logprobs(self) -> Sequence[Mapping[int, float]] | None: ...


class SteppingEngine(Protocol):
    """What the server needs of an engine."""

    def add(self, prompt_ids: list[int], params: SamplingParams) -> int: ...
    def cancel(self, request_id: int) -> None: ...
    def step(self) -> Sequence[TokenEvent]: ...
    @property
    def has_work(self) -> bool: ...


class QueueFullError(Exception):
    """Too many requests wait for their first token."""


class EngineFailedError(Exception):
    """The engine raised during a step; unless memory was short for this request alone, nothing more is asked of it."""


class Generation:
    """The events of one request, in order; iterate on the event loop that submitted it."""

    def __init__(self, forget: Callable[["Generation"], None]) -> None:
        self.started = False  # its first token has come
        self._news: asyncio.Queue[TokenEvent | Exception | None] = asyncio.Queue()
        self._forget = forget

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        finished = False
        while not finished:
            event = await self._next()
            assert event is not None, "a request is admitted once"
            finished = event.finish_reason is not None
            yield event

    def cancel(self) -> None:
        """Stop the request in the engine; harmless when it has ended."""
        self._forget(self)

    async def wait_until_admitted(self) -> None:
        """Raises the engine's ValueError when it refuses the prompt, EngineFailedError when it is broken."""
        await self._next()

    def receive(self, news: TokenEvent | Exception | None) -> None:
        """Called on the event loop with a token, a failure, or None for "admitted"."""
        self.started = self.started or news is not None
        self._news.put_nowait(news)

    async def _next(self) -> TokenEvent | None:
        news = await self._news.get()
        if isinstance(news, Exception):
            raise news
        return news


class EngineThread:
    """Runs `engine` beside the event loop: `start` on the loop, `submit` from it, `close` before it ends."""

    def __init__(self, engine: SteppingEngine, *, max_waiting: int) -> None:
        self._engine = engine
        self._max_waiting = max_waiting
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread = Thread(target=self._run, name="gorae-engine", daemon=True)
        self._closing = False
        self._failure: EngineFailedError | None = None
        self._live: set[Generation] = set()  # touched on the event loop only
        self._admitted: dict[int, Generation] = {}  # by the engine's request id; touched by the thread only

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def close(self) -> None:
        """End the thread after the step it is in; requests still running get no more tokens."""
        self._orders.put(partial(setattr, self, "_closing", True))
        self._thread.join()

    @property
    def num_waiting(self) -> int:
        """Requests without a first token."""
        return sum(not generation.started for generation in self._live)

    async def submit(self, prompt_ids: list[int], params: SamplingParams) -> Generation:
        """Hand a request to the engine and return once it is admitted.

        Raises QueueFullError, EngineFailedError, or the ValueError with which the engine refuses the request.
        """
        if self._failure:
            raise self._failure
        if self.num_waiting >= self._max_waiting:
            raise QueueFullError(
                f"{self.num_waiting} requests wait already and max_waiting={self._max_waiting}; try again in a moment"
            )
        generation = Generation(self._forget)
        self._live.add(generation)
        self._orders.put(partial(self._admit, generation, prompt_ids, params))
        try:
            await generation.wait_until_admitted()
        except BaseException:  # a refusal, or the client left while it waited
            generation.cancel()
            raise
        return generation

    # On the event loop.

    def _forget(self, generation: Generation) -> None:
        if generation in self._live:
            self._live.remove(generation)
            self._orders.put(partial(self._cancel, generation))

    def _fail(self, error: Exception) -> None:
        self._failure = EngineFailedError(f"the engine raised {type(error).__name__}: {error}; start it again")
        for generation in self._live:
            generation.receive(self._failure)

    # On the engine's thread.

    def _run(self) -> None:
        try:
            while not self._closing:
                self._obey(wait=not self._engine.has_work)
                if self._engine.has_work and not self._closing:
                    self._step()
        except Exception as error:
            # A ValueError is worded for people; of anything else they have to find the place.
            is_told = isinstance(error, ValueError) and not sys.flags.dev_mode
            reason = f": {error}" if is_told else f"\n{traceback.format_exc()}"
            log(f"the engine failed and answers no more requests{reason}")
            self._loop.call_soon_threadsafe(self._fail, error)

    def _step(self) -> None:
        try:
            self._deliver(self._engine.step())
        except ShortageError as error:  # of one request; the engine has dropped it
            if generation := self._admitted.pop(error.request_id, None):
                self._loop.call_soon_threadsafe(generation.receive, EngineFailedError(str(error)))

    def _obey(self, *, wait: bool) -> None:
        if wait:
            self._orders.get()()
        with contextlib.suppress(Empty):
            while True:
                self._orders.get_nowait()()

    def _admit(self, generation: Generation, prompt_ids: list[int], params: SamplingParams) -> None:
        try:
            self._admitted[self._engine.add(prompt_ids, params)] = generation
        except ValueError as refusal:
            self._loop.call_soon_threadsafe(generation.receive, refusal)
        else:
            self._loop.call_soon_threadsafe(generation.receive, None)

    def _cancel(self, generation: Generation) -> None:
        for request_id in [key for key, value in self._admitted.items() if value is generation]:
            del self._admitted[request_id]
            self._engine.cancel(request_id)

    def _deliver(self, events: Sequence[TokenEvent]) -> None:
        for event in events:
            if generation := self._admitted.get(event.request_id):
                if event.finish_reason is not None:
                    del self._admitted[event.request_id]
                self._loop.call_soon_threadsafe(generation.receive, event)

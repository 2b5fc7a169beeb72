"""The API as an application: /v1/models, /v1/chat/completions and /v1/completions, as OpenAI's clients expect them.

`create_api` ties engine, tokenizer and limits together; a page to show at / may be handed in. Knows no model.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from gorae.engine import ConstraintError, SamplingParams
from gorae.server.completion import Continuation, completion_chunks, read_completion, whole_completion
from gorae.server.engine_thread import EngineFailedError, EngineThread, Generation, QueueFullError, SteppingEngine
from gorae.server.limits import Limits, SamePage, read_body
from gorae.server.schema import ApiError, ChatRequest, read_request
from gorae.server.stream import EventStream, ReplyReader, chunks, whole_reply
from gorae.text import Prompt, Tokenizer


def create_api(
    engine: SteppingEngine,
    tokenizer: Tokenizer,
    model_name: str,
    *,
    max_positions: int,
    page: ASGIApp | None = None,
    limits: Limits | None = None,
) -> Starlette:
    """Return the application that serves `engine` under `model_name`; `page`, where given, is what / shows.

    The engine runs in a thread of its own from the application's startup to its shutdown. `max_positions` is the
    longest sequence, prompt and reply together, in tokens.
    """
    limits = limits or Limits()
    api = Api(engine, tokenizer, model_name, max_positions=max_positions, limits=limits)
    version_1 = [
        Route("/models", api.list_models),
        Route("/models/{name:path}", api.show_model),
        Route("/chat/completions", api.complete, methods=["POST"]),
        Route("/completions", api.go_on, methods=["POST"]),
    ]
    return Starlette(
        routes=[Mount("/v1", routes=version_1)] + ([Mount("/", page)] if page else []),
        middleware=[Middleware(SamePage, host_names=limits.host_names)],
        exception_handlers={
            ApiError: _answer_refusal,
            QueueFullError: _answer_full_queue,
            EngineFailedError: _answer_failure,
            HTTPException: _answer_wrong_route,
            Exception: _answer_failure,
        },
        lifespan=api.lifespan,
    )


class Api:
    """The handlers, and what they share."""

    def __init__(
        self, engine: SteppingEngine, tokenizer: Tokenizer, model_name: str, *, max_positions: int, limits: Limits
    ) -> None:
        self._thread = EngineThread(engine, max_waiting=limits.max_waiting)
        self._tokenizer = tokenizer
        self._model_name = model_name
        self._since = int(time.time())
        self._max_positions = max_positions
        self._limits = limits

    @asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        self._thread.start()
        yield
        self._thread.close()

    async def list_models(self, _request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def show_model(self, request: Request) -> Response:
        self._check_model(request.path_params["name"])
        return JSONResponse(self._described())

    async def complete(self, request: Request) -> Response:
        chat = read_request(await read_body(request, max_bytes=self._limits.max_body_bytes))
        self._check_model(chat.model)
        prompt = self._prompt(chat)
        generation = await self._submit(chat, prompt)
        reader = ReplyReader(
            self._tokenizer,
            prompt.mode,
            stop_strings=chat.stop_strings,
            num_prompt_tokens=len(prompt.ids),
            reads_calls=bool(chat.offered_tools),
            lists_logprobs=chat.logprobs,
        )
        if chat.stream:
            include_usage = chat.stream_options.include_usage
            parts = chunks(reader, generation, model=self._model_name, include_usage=include_usage)
            return EventStream(parts, generation, keep_alive_seconds=self._limits.keep_alive_seconds)
        try:
            reply = whole_reply(reader, generation, model=self._model_name)
            return JSONResponse(await _unless_client_leaves(request, reply))
        finally:
            generation.cancel()

    async def go_on(self, request: Request) -> Response:
        """Continue prompts as they stand."""
        wanted = read_completion(await read_body(request, max_bytes=self._limits.max_body_bytes))
        self._check_model(wanted.model)
        prompts = wanted.prompts(self._tokenizer)
        if wanted.stream and len(prompts) > 1:
            raise ApiError(
                400, f"{len(prompts)} prompts can not share one stream; send one, or no stream", param="stream"
            )
        for prompt_ids in prompts:
            self._check_length(prompt_ids, field="prompt", remedy="send less")
        continuations = [Continuation(self._tokenizer, wanted, ids, index) for index, ids in enumerate(prompts)]
        generations: list[Generation] = []
        try:
            for prompt_ids in prompts:
                params = wanted.params(room=self._max_positions - len(prompt_ids))
                generations.append(await self._hand_over(prompt_ids, params))
            if wanted.stream:
                options = {"model": self._model_name, "include_usage": wanted.stream_options.include_usage}
                parts = completion_chunks(continuations[0], generations[0], **options)
                return EventStream(parts, generations.pop(), keep_alive_seconds=self._limits.keep_alive_seconds)
            reply = whole_completion(continuations, generations, model=self._model_name)
            return JSONResponse(await _unless_client_leaves(request, reply))
        finally:
            for generation in generations:
                generation.cancel()

    def _described(self) -> dict[str, Any]:
        return {"id": self._model_name, "object": "model", "created": self._since, "owned_by": "gorae"}

    def _check_model(self, name: str) -> None:
        if name != self._model_name:
            raise ApiError(
                404,
                f'model "{name}" is not served here; use "{self._model_name}"',
                param="model",
                code="model_not_found",
            )

    def _prompt(self, chat: ChatRequest) -> Prompt:
        try:
            tools = chat.offered_tools
            if tools and self._tokenizer.chat_format.tools is None:
                raise ValueError("how this model would call a tool is not known; send no tools")
        except ValueError as error:
            raise ApiError(400, f"tools: {error}", param="tools") from None
        try:
            messages = [turn.as_message() for turn in chat.messages]
            prompt = self._tokenizer.encode_prompt(messages, tools=tools, mode=chat.mode)
        except ValueError as error:
            raise ApiError(400, f"messages: {error}", param="messages") from None
        self._check_length(prompt.ids, field="messages", remedy="shorten the conversation or start a new one")
        return prompt

    def _check_length(self, prompt_ids: list[int], *, field: str, remedy: str) -> None:
        if len(prompt_ids) >= self._max_positions:
            are = "are" if field == "messages" else "is"
            raise ApiError(
                400,
                f"{field} {are} {len(prompt_ids)} tokens long; this model holds {self._max_positions}, reply included; "
                f"{remedy}",
                param=field,
                code="context_length_exceeded",
            )

    async def _submit(self, chat: ChatRequest, prompt: Prompt) -> Generation:
        params = chat.sampling_params(room=self._max_positions - len(prompt.ids), mode=prompt.mode)
        try:
            return await self._hand_over(prompt.ids, params)
        except ConstraintError as error:
            raise ApiError(400, f"response_format: {error}", param="response_format") from None

    async def _hand_over(self, prompt_ids: list[int], params: SamplingParams) -> Generation:
        try:
            return await self._thread.submit(prompt_ids, params)
        except ConstraintError:
            raise
        except ValueError as error:
            raise ApiError(400, f"the engine refuses this request: {error}") from None


async def _unless_client_leaves(request: Request, work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """Return what `work` returns; when the client hangs up first, stop it."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_client_leaves(request))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client closed the connection before the reply was whole")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _client_leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _answer_refusal(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), status_code=error.status)


async def _answer_full_queue(request: Request, error: Exception) -> Response:
    return await _answer_refusal(request, ApiError(429, str(error), code="queue_full"))


async def _answer_failure(request: Request, error: Exception) -> Response:
    return await _answer_refusal(request, ApiError(500, f"the server failed: {error}"))


async def _answer_wrong_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    asked = f"{request.method} {request.url.path}"
    remedy = "use GET /v1/models, POST /v1/chat/completions or POST /v1/completions"
    return await _answer_refusal(request, ApiError(error.status_code, f"{asked}: {error.detail}; {remedy}"))

"""Asks any server that speaks OpenAI's chat-completions format; knows nothing of who answers.

Nouns: ChatClient and ClientError; what comes back is in `reply.py`. Nothing is retried: only the caller knows what a
second try costs.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx

from gorae.client.reply import Delta, Reply, TokenLogprob, ToolCall, ToolCallDelta

_NUMBERED = "token_id:"
Messages = Sequence[Mapping[str, Any]]  # {"role": "user", "content": "..."} and the like


class ClientError(Exception):
    """The server could not be reached, refused (`status` is its HTTP status) or broke off."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ChatClient:
    """A connection to the API at `base_url`, the /v1 included: ChatClient("http://127.0.0.1:8000/v1").

    `options` are fields of the request as the server names them (model, temperature, max_tokens, thinking, ...);
    without `model` the first model that the server lists answers. Without `api_key`, the environment variable
    GORAE_API_KEY is sent, if it is set. Every method raises ClientError.
    """

    def __init__(self, base_url: str, api_key: str | None = None, *, timeout_seconds: float = 600.0) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url={base_url!r} is not a web address; give one such as http://127.0.0.1:8000/v1")
        self.base_url = base_url.rstrip("/")
        key = api_key or os.environ.get("GORAE_API_KEY")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(headers=headers, timeout=httpx.Timeout(timeout_seconds, connect=10.0))

    def __enter__(self) -> "ChatClient":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def models(self) -> list[str]:
        """Return the names of the models the server offers."""
        answer = self._request("GET", "/models")
        with self._understanding(answer):
            return [model["id"] for model in answer["data"]]

    def complete(self, messages: Messages, **options: Any) -> Reply:
        """Return the reply to `messages`, once it is whole."""
        answer = self._request("POST", "/chat/completions", self._body(messages, options))
        with self._understanding(answer):
            choice = answer["choices"][0]
            message = choice["message"]
            return Reply(
                content=message.get("content") or "",
                reasoning=message.get("reasoning_content") or "",
                finish_reason=choice.get("finish_reason"),
                usage=answer.get("usage") or {},
                tool_calls=tuple(
                    ToolCall(call["id"], call["function"]["name"], call["function"].get("arguments") or "")
                    for call in message.get("tool_calls") or ()
                ),
                logprobs=_logprobs(choice, "content"),
                reasoning_logprobs=_logprobs(choice, "reasoning_content"),
            )

    def continue_tokens(self, prompt_ids: Sequence[int], **options: Any) -> list[TokenLogprob]:
        """Return the tokens that follow a prompt's, asked for by /completions; with `echo` the prompt's before them.

        A token that has no log-probability, such as an echoed prompt's first, has 0 here.
        """
        body = {"logprobs": 1, **options, "model": options.get("model") or self._first_model()}
        answer = self._request("POST", "/completions", {**body, "prompt": list(prompt_ids)})
        with self._understanding(answer):
            choice = answer["choices"][0]
            listed = choice["logprobs"]
            if "content" in listed:  # as llama.cpp has them, in the form of a chat
                return list(_logprobs(choice, "content"))
            found = [
                _logprob({"token": token, "logprob": logprob or 0.0})
                for token, logprob in zip(listed["tokens"], listed["token_logprobs"], strict=True)
            ]
            ids = choice.get("token_ids") or []
            return [replace(one, token_id=token_id) for one, token_id in zip(found, ids, strict=True)] if ids else found

    def stream(self, messages: Messages, **options: Any) -> Iterator[Delta]:
        """Yield the reply as it comes; closing the iterator early hangs up."""
        body = self._body(messages, {"stream_options": {"include_usage": True}} | options) | {"stream": True}
        try:
            with self._http.stream("POST", self.base_url + "/chat/completions", json=body) as response:
                if response.is_error:
                    response.read()
                    raise self._refusal(response)
                yield from self._deltas(response)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _body(self, messages: Messages, options: Mapping[str, Any]) -> dict[str, Any]:
        model = options.get("model") or self._first_model()
        return {**options, "model": model, "messages": [dict(message) for message in messages]}

    def _first_model(self) -> str:
        models = self.models()
        if not models:
            raise ClientError(f"{self.base_url} lists no model; name one with model=...")
        return models[0]

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            response = self._http.request(method, self.base_url + path, json=body)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if response.is_error:
            raise self._refusal(response)
        return self._parsed(response.text)

    def _deltas(self, response: httpx.Response) -> Iterator[Delta]:
        for line in response.iter_lines():
            name, _, data = line.partition(":")
            if name != "data":  # an empty line, a comment that keeps the connection alive
                continue
            if data.strip() == "[DONE]":
                return
            yield self._delta(self._parsed(data))
        raise ClientError(f"{self.base_url} broke off the reply before its end; ask again")

    def _delta(self, chunk: Any) -> Delta:
        if isinstance(chunk, dict) and "error" in chunk:
            raise ClientError(f"{self.base_url} broke off the reply: {_message_of(chunk)}")
        with self._understanding(chunk):
            choice = chunk["choices"][0] if chunk.get("choices") else {}
            added = choice.get("delta", {})
            return Delta(
                content=added.get("content") or "",
                reasoning=added.get("reasoning_content") or "",
                finish_reason=choice.get("finish_reason"),
                usage=chunk.get("usage"),
                tool_calls=tuple(
                    ToolCallDelta(
                        piece.get("index", place),  # some servers send calls whole, and number none
                        piece.get("id"),
                        piece["function"].get("name"),
                        piece["function"].get("arguments") or "",
                    )
                    for place, piece in enumerate(added.get("tool_calls") or ())
                ),
                logprobs=_logprobs(choice, "content"),
                reasoning_logprobs=_logprobs(choice, "reasoning_content"),
            )

    def _parsed(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            shown = text.strip()[:80]
            raise ClientError(
                f"{self.base_url} did not answer in JSON but with {shown!r}; check that it is the address of an API"
            ) from error

    @contextmanager
    def _understanding(self, answer: Any) -> Iterator[None]:
        """Turn what reading a foreign answer raises into an error that shows the answer."""
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            shown = json.dumps(answer, ensure_ascii=False)[:80]
            raise ClientError(
                f"{self.base_url} answered {shown!r}, which is no answer of a chat API; check that it is its address"
            ) from error

    def _refusal(self, response: httpx.Response) -> ClientError:
        try:
            message = _message_of(response.json())
        except ValueError:
            message = response.text.strip()[:200] or response.reason_phrase
        return ClientError(f"{self.base_url} answered {response.status_code}: {message}", status=response.status_code)

    def _unreachable(self, error: httpx.HTTPError) -> ClientError:
        reason = str(error) or type(error).__name__
        return ClientError(f"{self.base_url} cannot be reached ({reason}); check the address and that the server runs")


def _logprobs(choice: Mapping[str, Any], part: str) -> tuple[TokenLogprob, ...]:
    listed = (choice.get("logprobs") or {}).get(part) or ()
    return tuple(_logprob(one, tuple(map(_logprob, one.get("top_logprobs") or ()))) for one in listed)


def _logprob(entry: Mapping[str, Any], top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    data, token, token_id = entry.get("bytes"), entry["token"], entry.get("id")
    if token_id is None and token.startswith(_NUMBERED):  # vLLM, asked to return_tokens_as_token_ids
        token_id = int(token.removeprefix(_NUMBERED))
    return TokenLogprob(token, entry["logprob"], None if data is None else bytes(data), top, token_id)


def _message_of(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("message") if isinstance(error, dict) else error or body)

"""Log-probabilities of a reply in OpenAI's format, the reasoning's apart from the answer's as DeepSeek has them.

Every sampled token is listed once, in the order of sampling: those that `usage` counts as reasoning under
`reasoning_content`, all others under `content`, the end of the reply and the tokens of a stop string included.
"""

from collections.abc import Mapping
from typing import Any

from gorae.server.engine_thread import TokenEvent
from gorae.text import Tokenizer

LEAST = -9999.0  # what OpenAI writes for "never"; JSON has no infinity


class LogprobList:
    """The tokens that have been sampled and not yet been sent."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._held: dict[str, list[dict[str, Any]]] = {}

    def add(self, event: TokenEvent, *, is_reasoning: bool) -> None:
        """Note a sampled token, and the likeliest in its place."""
        top = [self._entry(*one) for one in (event.top_logprobs or {}).items()]
        entry = self._entry(event.token_id, event.logprob) | {"top_logprobs": top}
        self._held.setdefault("reasoning_content" if is_reasoning else "content", []).append(entry)

    def take(self) -> Mapping[str, Any] | None:
        """Return what has been noted since the last time, as the `logprobs` of a choice."""
        held, self._held = self._held, {}
        return {"content": None, "reasoning_content": None, "refusal": None} | held if held else None

    def _entry(self, token_id: int, logprob: float) -> dict[str, Any]:
        text, data = self._tokenizer.piece(token_id)
        return {"token": text, "logprob": max(logprob, LEAST), "bytes": None if data is None else list(data)}

"""What a caller asks for and gets: sampling parameters, outputs, and the request in between."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import NamedTuple

from torch import Tensor

from gorae.engine.constrain import Constraint, Guide
from gorae.engine.routings import Routings, joined
from gorae.text import StreamDecoder, Tokenizer


@dataclass(frozen=True)
class SamplingParams:
    """How to continue one prompt.

    temperature 0 is greedy. Of the softmax at it, top_k keeps the likeliest tokens (0: all), top_p the smallest set of
    them with that share of their probability, min_p those with that share of the likeliest's. Penalties lower the
    score of a token the output has already: presence_penalty once, frequency_penalty for each time; logit_bias adds to
    the scores of tokens by id. The same `seed` gives the same tokens whatever else the engine is doing; None takes a
    fresh one. `stop` texts end the output and are not part of its text; `stop_token_ids` end it too, ignore_eos or not.
    `logprobs=n` also returns the n likeliest tokens at every place; `prompt_logprobs=n` those at every place of the
    prompt, and what the prompt's own tokens had. `routings` returns the experts that prompt and reply went to. For
    either of these a prompt is read whole, known beginnings too. `policy` returns what every token was drawn from,
    where that is not the whole softmax at temperature 1. `constraint` is the form that the answer must have.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    routings: bool = False
    policy: bool = False
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        object.__setattr__(self, "stop", tuple(self.stop))
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))
        rules = {
            "max_tokens": (self.max_tokens >= 1, "must be at least 1"),
            "temperature": (self.temperature >= 0, "must be 0 (greedy) or more"),
            "top_k": (self.top_k >= 0, "must be 0 (all) or more"),
            "min_p": (0 <= self.min_p <= 1, "must lie between 0 and 1"),
            "presence_penalty": (-2 <= self.presence_penalty <= 2, "must lie between -2 and 2"),
            "frequency_penalty": (-2 <= self.frequency_penalty <= 2, "must lie between -2 and 2"),
            "logit_bias": (
                all(isfinite(bias) for bias in self.logit_bias.values()),
                "must be finite; -100 and less bans a token in effect",
            ),
            "top_p": (0 < self.top_p <= 1, "must lie above 0 and not above 1"),
            "stop": (all(self.stop), "must not hold an empty text; remove it"),
            "logprobs": ((self.logprobs or 0) >= 0, "must be None or at least 0"),
            "ignore_eos": (not (self.ignore_eos and self.constraint), "leaves a constrained reply without an end"),
            "prompt_logprobs": ((self.prompt_logprobs or 0) >= 0, "must be None or at least 0"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ValueError(f"{name}={getattr(self, name)!r} {rule}")

    @property
    def is_cut(self) -> bool:
        """Whether unlikely tokens are not drawn at all."""
        return bool(self.top_k or self.top_p < 1 or self.min_p)

    @property
    def is_whole(self) -> bool:
        """Whether tokens are drawn from the network's own softmax."""
        adjusts = self.logit_bias or self.presence_penalty or self.frequency_penalty
        return self.temperature == 1 and not (self.is_cut or self.constraint or adjusts)


class Policy(NamedTuple):
    """What a token was drawn from: the log-probability it had there, and the ids [K] of the tokens kept; None: all."""

    log_prob: float
    kept_ids: Tensor | None


@dataclass(frozen=True)
class Output:
    """A finished continuation.

    logprobs: log-probability of each sampled token under the untruncated softmax at temperature 1.
    policy: what each was drawn from, where that was asked for and is anything else.
    prompt_logprobs: the same of each token of the prompt, given those before it; None for the first.
    finish_reason: "stop" (a token that ends a reply, or a stop text), "length" or "cancelled".
    num_cached: tokens of the prompt that had been read before, for another request.
    weights_version: the engine's when the first token was sampled; later tokens may be of later weights.
    """

    token_ids: list[int]
    text: str
    logprobs: list[float]
    finish_reason: str
    prompt_token_ids: list[int]
    top_logprobs: list[dict[int, float]] | None = None
    prompt_logprobs: list[float | None] | None = None
    prompt_top_logprobs: list[dict[int, float]] | None = None
    routings: Routings | None = field(default=None, compare=False)
    policy: list[Policy] | None = field(default=None, compare=False)
    num_cached: int = field(default=0, compare=False)
    weights_version: int = field(default=0, compare=False)


@dataclass(eq=False)
class Request:
    """One prompt being continued."""

    request_id: int
    prompt_ids: list[int]
    params: SamplingParams
    seed: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[dict[int, float]] = field(default_factory=list)
    prompt_logprobs: list[float] = field(default_factory=list)  # of the second token and those after it
    prompt_top_logprobs: list[dict[int, float]] = field(default_factory=list)
    routings: list[Tensor] = field(default_factory=list)  # of the tokens that the network has been given, in parts
    policy: list[Policy] = field(default_factory=list)
    finish_reason: str | None = None
    tail: str = ""  # of the text: where a stop text may have begun
    decoder: StreamDecoder | None = None
    guide: Guide | None = None
    num_cached: int = 0
    weights_version: int | None = None  # None until it is admitted

    def take(self, token_id: int, logprob: float, *, end_ids: Collection[int], max_positions: int) -> None:
        """Append a sampled token and decide whether it was the last."""
        params = self.params
        self.token_ids.append(token_id)
        self.logprobs.append(logprob)
        is_end = (token_id in end_ids and not params.ignore_eos) or token_id in params.stop_token_ids
        if is_end or (params.stop and self.completes_stop_text(token_id)):
            self.finish_reason = "stop"
        elif len(self.token_ids) >= params.max_tokens or self.num_tokens >= max_positions:
            self.finish_reason = "length"

    def completes_stop_text(self, token_id: int) -> bool:
        """Whether the characters this token adds complete a stop text; only the end of the text is looked at."""
        assert self.decoder is not None, "stop texts are refused where there is no tokenizer"
        text = self.tail + self.decoder.push([token_id])
        self.tail = text[max(0, len(text) + 1 - max(map(len, self.params.stop))) :]
        return any(stop in text for stop in self.params.stop)

    def begin(self) -> None:
        """It is about to be read, maybe not for the first time: what an earlier reading did not finish is dropped."""
        if self.lacks_prompt_logprobs:
            self.prompt_logprobs, self.prompt_top_logprobs = [], []
        self.routings = []

    @property
    def lacks_prompt_logprobs(self) -> bool:
        return self.params.prompt_logprobs is not None and len(self.prompt_logprobs) < len(self.prompt_ids) - 1

    @property
    def is_read_whole(self) -> bool:
        """Whether something is asked of tokens that the network says only while it reads them."""
        return self.lacks_prompt_logprobs or self.params.routings

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.token_ids)

    @property
    def num_left(self) -> int:
        """Tokens that it may still get."""
        return self.params.max_tokens - len(self.token_ids)

    @property
    def sequence(self) -> tuple[int, ...]:
        """Prompt and reply: what has to be read before the next token can be sampled."""
        return (*self.prompt_ids, *self.token_ids)

    def allowed(self, reply_ids: Sequence[int]) -> Tensor | None:
        """Which tokens [W] may follow these as its reply; None if any may."""
        return self.guide.allowed(reply_ids) if self.guide else None

    def tokens_from(self, place: int) -> list[int]:
        """The sequence from a place on."""
        written = place - len(self.prompt_ids)
        return self.token_ids[written:] if written >= 0 else [*self.prompt_ids[place:], *self.token_ids]

    def output(self, tokenizer: Tokenizer | None) -> Output:
        text = tokenizer.decode(self.token_ids) if tokenizer else ""
        ends = [place for stop in self.params.stop if (place := text.find(stop)) >= 0]
        return Output(
            token_ids=self.token_ids,
            text=text[: min(ends)] if ends else text,
            logprobs=self.logprobs,
            finish_reason=self.finish_reason or "cancelled",
            prompt_token_ids=self.prompt_ids,
            top_logprobs=self.top_logprobs if self.params.logprobs else None,
            prompt_logprobs=None if self.params.prompt_logprobs is None else [None, *self.prompt_logprobs],
            prompt_top_logprobs=[{}, *self.prompt_top_logprobs] if self.params.prompt_logprobs else None,
            routings=joined(self.routings) if self.routings else None,
            policy=self.policy or None,
            num_cached=self.num_cached,
            weights_version=self.weights_version or 0,
        )

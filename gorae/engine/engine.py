"""Continuous batching over one model: `step()` admits what fits, samples a token a request, lets go of the done.

Nouns: requests waiting and running, events. Knows no HTTP and no reward.
"""

import secrets
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gorae.config import ModelConfig
from gorae.engine.broken import require_numbers
from gorae.engine.request import Output, Request, SamplingParams
from gorae.engine.runner import Count, Runner
from gorae.engine.sampler import adjusted, sample, uniforms
from gorae.model import Network
from gorae.text import StreamDecoder, Tokenizer


class ServableModel(Protocol):
    """What the engine needs of what `gorae.load` returns."""

    @property
    def network(self) -> Network: ...
    @property
    def config(self) -> ModelConfig: ...
    @property
    def tokenizer(self) -> Tokenizer | None: ...


class Event(NamedTuple):
    """One sampled token; the last one of a request carries its finish reason."""

    request_id: int
    token_id: int
    finish_reason: str | None


class Engine:
    """Continues prompts with the model's own network, up to `max_batch` at a time; `count` bills what it computes."""

    def __init__(self, model: ServableModel, *, max_batch: int = 256, count: Count | None = None) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch={max_batch} must be at least 1")
        self.config, self.tokenizer = model.config, model.tokenizer
        self.runner = Runner(model.network, max_batch, count)
        self.max_batch = max_batch
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.next_id = 0

    def generate(
        self, prompts: Sequence[str | list[int]], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> list[Output]:
        """Continue every prompt and return the outputs in the same order.

        A prompt is text, which begins as the tokenizer's texts do (with a BOS, if it has one), or token ids.

        Raises ValueError for a single prompt in place of a list, an empty prompt, ids outside the vocabulary, a prompt
        that leaves no room for a token, more logprobs than there are tokens, and texts without a tokenizer for them.
        """
        if isinstance(prompts, str) or any(isinstance(prompt, int) for prompt in prompts):
            raise ValueError("prompts is one prompt; give a list of prompts, as in generate([prompt])")
        params = SamplingParams() if params is None else params
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        if len(each) != len(prompts):
            raise ValueError(
                f"{len(prompts)} prompts were given with {len(each)} SamplingParams; give one, or one each"
            )
        requests = [self.admissible(self.encode(prompt), one) for prompt, one in zip(prompts, each, strict=True)]
        self.waiting.extend(requests)
        try:
            while any(request.finish_reason is None for request in requests):
                self.step()
        except BaseException:
            self.clear()  # a step cut short, as by Ctrl-C, leaves requests and cache rows out of step
            raise
        return [request.output(self.tokenizer) for request in requests]

    def add(self, prompt_ids: list[int], params: SamplingParams) -> int:
        """Queue a prompt; its tokens come as events of `step`. Raises ValueError as `generate` does."""
        request = self.admissible(prompt_ids, params)
        self.waiting.append(request)
        return request.request_id

    def cancel(self, request_id: int) -> None:
        """Forget a request, whether it waits, runs or has ended; no further event names it."""
        self.waiting = deque(request for request in self.waiting if request.request_id != request_id)
        for row, request in enumerate(self.running):
            if request.request_id == request_id:
                request.finish_reason = "cancelled"
                self.release(row)
                return

    def clear(self) -> None:
        """Forget every request, whatever state a step cut short left it in."""
        self.waiting.clear()
        self.running.clear()
        self.runner.clear()

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def step(self) -> list[Event]:
        """One more token for every running request, after admitting what fits; returns the tokens sampled."""
        log_probs_BW = [self.runner.decode([r.token_ids[-1] for r in self.running])] if self.running else []
        admitted = [self.waiting.popleft() for _ in range(min(len(self.waiting), self.max_batch - len(self.running)))]
        if admitted:
            log_probs_BW.append(self.runner.prefill([request.prompt_ids for request in admitted]))
            self.running += admitted
        if not self.running:
            return []
        self.take_tokens(torch.cat(log_probs_BW))
        events = [Event(r.request_id, r.token_ids[-1], r.finish_reason) for r in self.running]
        for row in reversed(range(len(self.running))):
            if self.running[row].finish_reason:
                self.release(row)
        return events

    def take_tokens(self, log_probs_BW: Tensor) -> None:
        """Sample every running request's next token from its row."""
        require_numbers(log_probs_BW, self.runner.network, self.running)
        params = [request.params for request in self.running]
        numbers_B = uniforms([r.seed for r in self.running], [len(r.token_ids) for r in self.running])
        scores_BW = adjusted(log_probs_BW, params, [request.token_ids for request in self.running])
        tokens_B = sample(scores_BW, params, numbers_B)
        chosen_B = log_probs_BW.gather(-1, tokens_B[:, None])[:, 0]
        limits = {"end_ids": self.config.end_ids, "max_positions": self.config.max_positions}
        for row, (request, token_id, logprob) in enumerate(
            zip(self.running, tokens_B.tolist(), chosen_B.tolist(), strict=True)
        ):
            if request.params.logprobs:
                likeliest = log_probs_BW[row].topk(request.params.logprobs)
                request.top_logprobs.append(
                    dict(zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True))
                )
            request.take(token_id, logprob, **limits)

    def release(self, row: int) -> None:
        """Free a row; the last running request takes its place, as in the cache."""
        self.runner.remove(row)
        self.running[row] = self.running[-1]
        self.running.pop()

    def encode(self, prompt: str | list[int]) -> list[int]:
        if not isinstance(prompt, str):
            return list(prompt)
        if self.tokenizer is None:
            raise ValueError("this model has no tokenizer; give token ids instead of text, or load a folder with one")
        return [*self.tokenizer.text_start_ids, *self.tokenizer.encode(prompt)]

    def admissible(self, prompt_ids: list[int], params: SamplingParams) -> Request:
        """A request for a prompt that can be run."""
        if not prompt_ids:
            raise ValueError("the prompt is empty; give at least one token")
        odd = next((i for i in prompt_ids if not 0 <= i < self.config.vocab_size), None)
        if odd is not None:
            raise ValueError(f"token id {odd} lies outside the vocabulary of {self.config.vocab_size}")
        if len(prompt_ids) >= self.config.max_positions:
            raise ValueError(
                f"the prompt has {len(prompt_ids)} tokens and the model reads at most {self.config.max_positions}, "
                "one of them to be written; shorten the prompt"
            )
        if (params.logprobs or 0) > self.config.vocab_size:
            raise ValueError(f"logprobs={params.logprobs} exceeds the vocabulary of {self.config.vocab_size}")
        for name in ("logit_bias", "stop_token_ids"):
            if any(not 0 <= token_id < self.config.vocab_size for token_id in getattr(params, name)):
                raise ValueError(
                    f"{name}={getattr(params, name)} names a token outside the vocabulary of {self.config.vocab_size}"
                )
        if params.stop and self.tokenizer is None:
            raise ValueError("this model has no tokenizer to find stop texts with; load a folder that has one")
        self.next_id += 1
        seed = secrets.randbits(63) if params.seed is None else params.seed % 2**64
        decoder = StreamDecoder(self.tokenizer) if self.tokenizer else None
        return Request(self.next_id, prompt_ids, params, seed, decoder=decoder)

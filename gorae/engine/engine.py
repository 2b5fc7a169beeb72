"""Continuous batching over one model: `step()` reads what fits, samples a token a request, lets go of the done.

Nouns: requests waiting, being read and running; events. Knows no HTTP and no reward.
"""

import secrets
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gorae.config import CacheType, ModelConfig, cache_bytes_per_token
from gorae.engine.broken import require_numbers
from gorae.engine.constrain import Constraint, Grammars, Guide
from gorae.engine.draft import Mode, Places, Speculation
from gorae.engine.logprobs import likeliest, note_prompt
from gorae.engine.passage import Passage
from gorae.engine.request import Output, Request, SamplingParams
from gorae.engine.routings import of_rows
from gorae.engine.runner import Count, Runner
from gorae.engine.sampler import draw, policies
from gorae.engine.scheduler import LONG_PASS, LONGEST_PASS, Reading, next_reading, tokens_of_a_pass
from gorae.engine.shortage import ShortageError, is_shortage, memory_of
from gorae.engine.spill import PageFolder
from gorae.engine.weights import WeightsWatch, replace_weights
from gorae.kernels import TILE_KEYS
from gorae.model import Network, weight_bytes_read
from gorae.observe import log
from gorae.text import StreamDecoder, Tokenizer


class ServableModel(Protocol):
    """What the engine needs of what `gorae.load` returns."""

    @property
    def network(self) -> Network: ...
    @property
    def config(self) -> ModelConfig: ...
    @property
    def tokenizer(self) -> Tokenizer | None: ...


CACHE_SHARE = 0.5  # of the memory available when an engine is made, unless told otherwise
GPU_SHARE = 0.25  # where memory is taken at once, and a trainer may need the rest


class Event(NamedTuple):
    """One sampled token; the last one of a request carries its finish reason.

    num_cached: tokens of its prompt that had been read before, for another request.
    logprob, top_logprobs: as those of an `Output`.
    prompt_logprobs, prompt_top_logprobs: of a prompt from its second token on, where they were asked for; they come
        with the first token sampled.
    """

    request_id: int
    token_id: int
    finish_reason: str | None
    num_cached: int = 0
    logprob: float = 0.0
    top_logprobs: Mapping[int, float] | None = None
    prompt_logprobs: Sequence[float] | None = None
    prompt_top_logprobs: Sequence[Mapping[int, float]] | None = None


@dataclass
class Stats:
    """What an engine has done: tokens of admitted prompts, how many of them were known, requests sent back to wait,
    tokens that speculation tried, and how many of them were right.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    drafted: int = 0
    accepted: int = 0


class Engine:
    """Continues prompts with the model's own network, up to `max_batch` at a time; `count` bills what it computes.

    cache_tokens: tokens the cache may hold, those of known prefixes among them; by default what half of the memory
        available now has room for, or a quarter of a GPU's. Prompt and reply together are at most this long.
    cache_type: "float32", "bfloat16" or "int8", of what the cache holds: float32 alone in exact mode, bfloat16 in fast
        mode unless told otherwise. int8 takes about half of that and rounds more.
    prefill_tokens: tokens of prompts that a step may read, in whole key pages of 32. A long prompt goes layer by layer
        over so many, and an expert is multiplied with all that chose it. By default 2048, or 8192 where the weights
        take more than half of the memory and come from the disk again in every pass; less where an eighth of the
        memory available now has no room for what these compute.
    prefill_tokens_while_running: of these, what a step reads while requests run, which go on between two steps.
    prefix_cache: keep what has been read for requests that begin alike.
    speculation: try guesses of the next tokens, which changes no token and no log-probability: "ngram" takes them from
        repetitions in prompt and reply, "mtp" from the network's next-token module, "auto" from both where that pays.
    prefix_folder: keep it on disk too, up to `prefix_folder_bytes`, for later processes with the same weights; making
        sure of these reads all of them once.
    """

    def __init__(
        self,
        model: ServableModel,
        *,
        max_batch: int = 256,
        cache_tokens: int | None = None,
        cache_type: CacheType | None = None,
        prefill_tokens: int | None = None,
        prefill_tokens_while_running: int = LONG_PASS,
        prefix_cache: bool = True,
        speculation: Mode | None = None,
        prefix_folder: str | Path | None = None,
        prefix_folder_bytes: int = 4 << 30,
        count: Count | None = None,
    ) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch={max_batch} must be at least 1")
        device = model.network.device
        if prefill_tokens is None:
            weight_bytes = weight_bytes_read(model.network, LONGEST_PASS)
            prefill_tokens = tokens_of_a_pass(
                model.config, weight_bytes, *memory_of(device), is_fast=model.network.is_fast
            )
        limits = {"prefill_tokens": prefill_tokens, "prefill_tokens_while_running": prefill_tokens_while_running}
        for name, num_tokens in limits.items():
            if num_tokens < TILE_KEYS or num_tokens % TILE_KEYS:
                raise ValueError(f"{name}={num_tokens} must be {TILE_KEYS} or a multiple of it")
        if cache_tokens is None:
            is_fast = model.network.is_fast
            token_bytes = cache_bytes_per_token(model.config, is_fast=is_fast, cache_type=cache_type)
            if speculation in ("auto", "mtp") and model.network.mtp:  # its module remembers, as a layer does
                token_bytes += cache_bytes_per_token(model.config, is_fast=is_fast) // model.config.num_layers
            share = CACHE_SHARE if device.type == "cpu" else GPU_SHARE
            cache_tokens = max(TILE_KEYS, int(share * memory_of(device)[0]) // token_bytes)
        if cache_tokens < TILE_KEYS:
            raise ValueError(f"cache_tokens={cache_tokens} must be at least {TILE_KEYS}, one page of keys")
        self.config, self.tokenizer = model.config, model.tokenizer
        self.max_batch, self.prefill_tokens = max_batch, prefill_tokens
        self.prefill_tokens_while_running = min(prefill_tokens, prefill_tokens_while_running)
        self.cache_tokens = cache_tokens // TILE_KEYS * TILE_KEYS
        if prefix_folder is not None and not prefix_cache:
            raise ValueError("prefix_folder has no use with prefix_cache=False; leave one of them out")
        self.runner = Runner(
            model.network,
            num_pages=cache_tokens // TILE_KEYS,
            prefix_cache=prefix_cache,
            folder=None if prefix_folder is None else PageFolder(Path(prefix_folder), prefix_folder_bytes),
            count=count,
            cache_type=cache_type,
        )
        self.speculation = Speculation(model.network, speculation, count=count)
        self.waiting: deque[Request] = deque()  # the oldest first, and all younger than those admitted
        self.reading = Reading()
        self.running: list[Request] = []
        self.grammars: Grammars | None = None
        self.next_id = 0
        self.stats = Stats()
        self.weights_version = 0
        self.watch = WeightsWatch(model.network)

    @property
    def max_positions(self) -> int:
        """Prompt and reply together are at most this many tokens."""
        return min(self.config.max_positions, self.cache_tokens)

    def generate(
        self, prompts: Sequence[str | list[int]], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> list[Output]:
        """Continue every prompt and return the outputs in the same order.

        A prompt is text, which begins as the tokenizer's texts do (with a BOS, if it has one), or token ids.

        Raises ValueError for a single prompt in place of a list, an empty prompt, ids outside the vocabulary, a prompt
        that leaves no room for a token, more logprobs than there are tokens, a constraint that is none, and texts
        without a tokenizer for them.
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
        """Forget a request, whether it waits, is read, runs or has ended; no further event names it."""
        self.waiting = deque(request for request in self.waiting if request.request_id != request_id)
        for request in (*self.running, *self.reading.requests):
            if request.request_id == request_id:
                request.finish_reason = "cancelled"
                self.release([request])

    def clear(self) -> None:
        """Forget every request and every prefix, whatever state a step cut short left them in."""
        self.waiting.clear()
        self.running.clear()
        self.reading = Reading()
        self.runner.clear()
        self.speculation.clear()

    def update_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy new weights into the network, by its own names; requests go on with them. ValueError for strangers."""
        replace_weights(self.runner.network, weights)
        self.weights_changed()

    def weights_changed(self) -> None:
        """Forget what was read with the old weights; requests that have been admitted are read again.

        Every step looks for such changes itself. Call this after one that PyTorch does not count (see weights.py).
        """
        while self.running or self.reading.requests:
            self.preempt()
        if self.runner.passes.has_its_weights():
            self.runner.clear()
        else:
            self.runner.renew()
        self.weights_version += 1
        self.watch = WeightsWatch(self.runner.network)

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.reading.requests or self.running)

    def step(self) -> list[Event]:
        """One more token for every running request, after reading on in the prompts; returns the tokens sampled.

        Raises ShortageError where memory is short for one request alone, which is dropped.
        """
        try:
            return self.advance()
        except (MemoryError, RuntimeError) as error:
            if not is_shortage(error):
                raise
            self.run_fewer(error)
            return []

    def advance(self) -> list[Event]:
        """The step itself: look, guess, write, read, draw, let go."""
        self.look_at_weights()
        self.keep_within_bounds()
        drafts = self.speculation.draft(self.running, partial(self.runner.has_room, self.reading.num_copied))
        passage, log_probs = self.write(drafts)
        self.admit()
        log_probs += self.read()
        events = self.take_tokens(log_probs, drafts)
        self.settle(passage, drafts)
        if ended := [request for request in self.running if request.finish_reason]:
            self.release(ended)
        return events

    def run_fewer(self, error: BaseException) -> None:
        """Memory was short in a step: send all requests back to wait, and run half as many at once from now on.

        Where there was but one, it is read in shorter passes, if there was a longer one.
        """
        admitted = sorted((*self.running, *self.reading.requests), key=lambda request: request.request_id)
        was_long = max(self.reading.num_new, default=0) > self.prefill_tokens_while_running < self.tokens_to_read
        self.running, self.reading = [], Reading()
        self.runner.renew()
        self.speculation.clear()
        if len(admitted) < 2 and not was_long:
            number = admitted[0].request_id if admitted else 0
            raise ShortageError(
                f"request {number} was dropped, as there is no memory for it even alone ({error}); give the engine "
                "less prefill_tokens or cache_tokens, or ask for less",
                number,
            ) from error
        self.waiting.extendleft(reversed(admitted))
        self.stats.preemptions += len(admitted)
        if len(admitted) < 2:
            self.prefill_tokens = self.prefill_tokens_while_running
            log(f"memory is short: the engine reads {self.prefill_tokens} tokens at once from now on")
            return
        self.max_batch = len(admitted) // 2
        log(f"memory is short: the engine runs {self.max_batch} requests at once from now on")

    def look_at_weights(self) -> None:
        if self.watch.has_changed():
            self.weights_changed()

    def keep_within_bounds(self) -> None:
        """Preempt while the cache has no room for another token of every running request."""
        while self.running and not self.runner.has_room(self.reading.num_copied):
            self.preempt()

    def preempt(self) -> None:
        """Send the youngest request back to the head of the queue; its reply so far is read again with its prompt."""
        youngest = max((*self.running, *self.reading.requests), key=lambda request: request.request_id)
        self.release([youngest])
        self.waiting.appendleft(youngest)
        self.stats.preemptions += 1

    def write(self, drafts: Sequence[list[int]]) -> tuple[Passage | None, list[Tensor]]:
        """Give the network the last token of every running request, and its drafts; what it says of what follows."""
        if not self.running:
            return None, []
        tokens = [[request.token_ids[-1], *draft] for request, draft in zip(self.running, drafts, strict=True)]
        passage, log_probs_NW = self.runner.decode(tokens)
        self.speculation.passed(passage.features.hidden_BTD.shape[:2].numel())
        return passage, [log_probs_NW]

    @property
    def tokens_to_read(self) -> int:
        """At most so many of prompts in this step: fewer where a running request waits for its end."""
        return self.prefill_tokens_while_running if self.running else self.prefill_tokens

    def admit(self) -> None:
        """Choose what to read next, once the last reading has come to its end."""
        if self.reading.requests or not self.waiting:
            return
        if not self.waiting[0].is_read_whole:
            self.runner.recall(self.waiting[0].sequence[:-1])
        self.reading = next_reading(
            self.waiting,
            len(self.running),
            self.runner.prefixes.find,
            self.runner.cache.book,
            max_batch=self.max_batch,
            prefill_tokens=self.tokens_to_read,
        )
        for request in self.reading.requests:
            request.begin()
            if request.weights_version is None:
                request.num_cached = TILE_KEYS * len(self.reading.known[request.sequence])
                self.stats.prompt_tokens += len(request.prompt_ids)
                self.stats.cached_tokens += request.num_cached
            if not request.token_ids:
                request.weights_version = self.weights_version
        if self.reading.requests:
            self.runner.begin(self.reading.known)

    def read(self) -> list[Tensor]:
        """Read on; requests whose prompts have been read run from now on, in the order of the rows returned."""
        if not self.reading.requests:
            return []
        sequences = [request.sequence for request in self.reading.requests]
        passage, log_probs_BW = self.runner.read(sequences, self.tokens_to_read)
        sharing = defaultdict(list)  # in the order of rows
        for request in self.reading.requests:
            sharing[request.sequence].append(request)
        self.note(passage, list(sharing.values()))
        if log_probs_BW is None:
            return []
        self.running += self.reading.requests
        self.reading = Reading()
        return [log_probs_BW]

    def note(self, passage: Passage, sharing: Sequence[Sequence[Request]]) -> None:
        """Let the requests of every row keep what they asked to know of its tokens."""
        for row, requests in enumerate(sharing):
            if any(one.lacks_prompt_logprobs for one in requests):
                note_prompt(requests, passage.part(row), self.runner.log_probs, vocab_size=self.config.vocab_size)
            if self.speculation.drafters:
                self.speculation.note(requests, passage.part(row))
        asking = [(row, one) for row, requests in enumerate(sharing) for one in requests if one.params.routings]
        if asking:
            for (_, request), routings in zip(asking, of_rows(passage, [row for row, _ in asking]), strict=True):
                request.routings.append(routings)

    def take_tokens(self, log_probs: Sequence[Tensor], drafts: Sequence[list[int]]) -> list[Event]:
        """Draw every running request's next token, and those after its drafts as far as these are what is drawn."""
        if not log_probs:
            return []
        log_probs_NW = torch.cat(list(log_probs))
        drafts = [*drafts, *([] for _ in self.running[len(drafts) :])]
        places = Places(self.running, drafts)
        draws = draw(log_probs_NW, places.params, places.seeds, places.written, places.allowed)
        tokens_N = draws.token_ids
        reached = places.reached(tokens_N)
        require_numbers(log_probs_NW, self.runner.network, {place: places.requests[place] for place in reached})
        chosen_N = log_probs_NW.gather(-1, torch.tensor(tokens_N)[:, None])[:, 0].tolist()
        asking = [place for place in reached if places.params[place].policy and not places.params[place].is_whole]
        device = self.runner.network.device
        drawn_from = policies(draws, asking, [places.params[place] for place in asking], device) if asking else []
        policy_of = dict(zip(asking, drawn_from, strict=True))
        limits = {"end_ids": self.config.end_ids, "max_positions": self.config.max_positions}
        events = []
        for place in reached:
            request = places.requests[place]
            if request.finish_reason:  # by a token before this one
                continue
            if request.params.logprobs:
                request.top_logprobs += likeliest(log_probs_NW[place : place + 1], request.params.logprobs)
            if place in policy_of:
                request.policy.append(policy_of[place])
            request.take(tokens_N[place], chosen_N[place], **limits)
            events.append(event_of(request))
        return events

    def settle(self, passage: Passage | None, drafts: Sequence[list[int]]) -> None:
        """Forget the drafts that were wrong, and let requests keep what they asked to know of the other tokens."""
        if passage is None:
            return
        written = self.running[: len(drafts)]
        self.runner.take_back([request.num_tokens - 1 for request in self.running])
        counts = [request.num_tokens - 1 - start for request, start in zip(written, passage.starts, strict=True)]
        self.note(passage._replace(counts=counts), [[request] for request in written])
        self.speculation.settle(written, drafts, [count - 1 for count in counts])
        self.stats.drafted += sum(map(len, drafts))
        self.stats.accepted += sum(counts) - len(counts)

    def release(self, requests: Sequence[Request]) -> None:
        """Free the rows of requests that run or are read."""
        for request in requests:
            self.speculation.forget(request)
        gone = {request.request_id for request in requests}
        rows = {row: request.sequence for row, request in enumerate(self.running) if request.request_id in gone}
        self.running = [request for request in self.running if request.request_id not in gone]
        if rows:
            self.runner.remove(rows)
        if not any(request.request_id in gone for request in self.reading.requests):
            return
        self.reading.requests[:] = [one for one in self.reading.requests if one.request_id not in gone]
        if not self.reading.requests:
            self.runner.abandon()
            self.reading = Reading()

    def guide(self, constraint: Constraint) -> Guide:
        """Where a request begins in the grammar of its constraint; what the tokenizer needs for that is made once."""
        if self.tokenizer is None:
            raise ValueError("this model has no tokenizer to hold a reply to a constraint with; load a folder with one")
        if not self.config.end_ids:
            raise ValueError("no token ends a reply of this model, so it can not be held to a constraint; leave it out")
        if self.grammars is None:
            vocab_size, end_ids = self.config.vocab_size, self.config.end_ids
            self.grammars = Grammars(self.tokenizer, vocab_size=vocab_size, end_ids=end_ids)
        return self.grammars.guide(constraint)

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
        if len(prompt_ids) >= self.cache_tokens:
            raise ValueError(
                f"the prompt has {len(prompt_ids)} tokens and the cache holds at most {self.cache_tokens}, "
                "one of them to be written; shorten the prompt or give the engine more cache_tokens"
            )
        for name in ("logprobs", "prompt_logprobs"):
            if (getattr(params, name) or 0) > self.config.vocab_size:
                raise ValueError(f"{name}={getattr(params, name)} exceeds the vocabulary of {self.config.vocab_size}")
        for name in ("logit_bias", "stop_token_ids"):
            if any(not 0 <= token_id < self.config.vocab_size for token_id in getattr(params, name)):
                raise ValueError(
                    f"{name}={getattr(params, name)} names a token outside the vocabulary of {self.config.vocab_size}"
                )
        if params.routings and all(map(self.config.is_dense, range(self.config.num_layers))):
            raise ValueError("routings=True asks for experts and this model has none; leave it out")
        if params.stop and self.tokenizer is None:
            raise ValueError("this model has no tokenizer to find stop texts with; load a folder that has one")
        guide = self.guide(params.constraint) if params.constraint else None
        if params.max_tokens > (room := self.max_positions - len(prompt_ids)):
            params = replace(params, max_tokens=room)
        self.next_id += 1
        seed = secrets.randbits(63) if params.seed is None else params.seed % 2**64
        decoder = StreamDecoder(self.tokenizer) if self.tokenizer else None
        return Request(self.next_id, prompt_ids, params, seed, decoder=decoder, guide=guide)


def event_of(request: Request) -> Event:
    """The event of a request's last token."""
    top_logprobs = request.top_logprobs[-1] if request.top_logprobs else None
    num_listed = request.params.prompt_logprobs if len(request.token_ids) == 1 else None
    return Event(
        request.request_id,
        request.token_ids[-1],
        request.finish_reason,
        request.num_cached,
        request.logprobs[-1],
        top_logprobs,
        None if num_listed is None else request.prompt_logprobs,
        request.prompt_top_logprobs if num_listed else None,
    )

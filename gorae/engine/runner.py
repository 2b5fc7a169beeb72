"""The model's side of a step: sequences into cache rows, and one more token for every running row.

Running requests occupy the first rows of the cache, in order; after them come the rows being read, one for each
distinct sequence. What the cache and the known prefixes hold together stays within `cache_tokens` between steps.
Knows requests only as token ids in rows.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from gorae.config import forward_flops
from gorae.engine.passage import Passage
from gorae.engine.prefixes import PrefixCache
from gorae.kernels import log_softmax, whole_pages
from gorae.model import Cache, Network, Page


class Count(Protocol):
    """Takes down the work of one forward pass, such as a `Meter.add`."""

    def __call__(self, *, flops: float, tokens: int) -> None: ...


class Runner:
    """The network, its cache, and `count`, which is told of every forward pass."""

    def __init__(
        self, network: Network, *, max_batch: int, cache_tokens: int, prefix_cache: bool, count: Count | None
    ) -> None:
        self.network = network
        self.max_batch = max_batch
        self.cache_tokens = cache_tokens
        self.prefix_cache = prefix_cache
        self.count = count
        self.clear()

    def clear(self) -> None:
        """Free all rows and forget all prefixes."""
        self.cache = Cache(self.network.config, 0)
        self.prefixes = PrefixCache()
        self.num_running = 0
        self.reading: list[tuple[int, ...]] = []

    @property
    def num_rows(self) -> int:
        return self.num_running + len(self.reading)

    @torch.inference_mode()
    def decode(self, token_ids: list[int]) -> tuple[Passage, Tensor]:
        """Append one token to every running row; returns the pass and the log-probabilities [B, W] of the next."""
        self.make_room(self.num_rows, self.longest(1))
        rows = slice(0, self.num_running)
        passage = Passage(
            self.cache.lengths_B[rows].tolist(),
            [1] * len(token_ids),
            self.network(torch.tensor(token_ids)[:, None], self.cache, rows),
        )
        self.cache.lengths_B[rows] += 1
        self.bill(len(token_ids), context=self.cache.lengths_B[rows].double().mean().item())
        return passage, self.log_probs(passage.features.hidden_BTD[:, 0])

    @torch.inference_mode()
    def begin(self, known: Mapping[tuple[int, ...], Sequence[Page]], *, reach: int) -> None:
        """Begin to read distinct sequences, behind those pages of each that are known; rows are written to `reach`."""
        self.make_room(self.num_running + len(known), max(self.longest(), reach))
        self.reading = list(known)
        for row, pages in enumerate(known.values(), self.num_running):
            self.cache.begin(row, pages)

    @torch.inference_mode()
    def read(self, sequences: list[tuple[int, ...]], max_tokens: int) -> tuple[Passage, Tensor | None]:
        """Read on for one pass, at most `max_tokens` a row; its passage has a row for each distinct sequence.

        Once all has been read, gives each of `sequences`, equal ones too, a running row of its own, and returns the
        log-probabilities [B, W] of what follows each.
        """
        rows = slice(self.num_running, self.num_rows)
        start_B, end_B = self.cache.lengths_B[rows].clone(), torch.tensor([len(one) for one in self.reading])
        num_left = int((end_B - start_B).max())
        tokens_BT = torch.zeros(len(self.reading), min(num_left, max_tokens), dtype=torch.long)
        for row, (sequence, start) in enumerate(zip(self.reading, start_B.tolist(), strict=True)):
            new = sequence[start : start + tokens_BT.shape[1]]
            tokens_BT[row, : len(new)] = torch.tensor(new)
        features = self.network(tokens_BT, self.cache, rows)
        self.bill(tokens_BT.numel(), context=start_B.double().mean().item() + tokens_BT.shape[1] / 2)
        self.cache.lengths_B[rows] = torch.minimum(start_B + tokens_BT.shape[1], end_B)
        passage = Passage(start_B.tolist(), (self.cache.lengths_B[rows] - start_B).tolist(), features)
        if num_left > tokens_BT.shape[1]:
            return passage, None
        last_BD = features.hidden_BTD[torch.arange(len(self.reading)), end_B - start_B - 1]
        log_probs_BW = self.log_probs(last_BD)
        for row, sequence in enumerate(self.reading, self.num_running):
            self.keep(row, sequence)
        return passage, log_probs_BW[self.seat(sequences)]

    def log_probs(self, hidden_ND: Tensor) -> Tensor:
        """The log-probabilities [N, W] of what follows N features."""
        return log_softmax(self.network.logits(hidden_ND))

    def seat(self, sequences: list[tuple[int, ...]]) -> list[int]:
        """Turn the rows read into running rows, one for each of `sequences`; returns their places among those read."""
        place_of = {sequence: place for place, sequence in enumerate(self.reading)}
        places = [place_of[sequence] for sequence in sequences]
        self.make_room(self.num_running + len(sequences), self.longest())
        if places != list(range(len(places))):
            targets = [self.num_running + place for place in range(len(places))]
            self.cache.adopt(targets, self.cache, [self.num_running + place for place in places])
        self.num_running += len(sequences)
        self.reading = []
        return places

    @torch.inference_mode()
    def remove(self, row: int, sequence: Sequence[int]) -> None:
        """Free a running row, keeping what it has read of `sequence`; the last running row takes its place."""
        self.keep(row, sequence, leaves=True)
        self.num_running -= 1
        if row != self.num_running:
            self.cache.adopt([row], self.cache, [self.num_running])
        if self.reading:  # one row, between steps: it follows the last running one
            self.cache.adopt([self.num_running], self.cache, [self.num_running + 1])
        self.give_back()

    @torch.inference_mode()
    def abandon(self) -> None:
        """Stop reading, keeping what has been read."""
        for row, sequence in enumerate(self.reading, self.num_running):
            self.keep(row, sequence, leaves=True)
        self.reading = []
        self.give_back()

    def keep(self, row: int, sequence: Sequence[int], *, leaves: bool = False) -> None:
        """Let others find what a row has read, where there is room; the last row to leave gives all of its own."""
        if self.prefix_cache:
            read = sequence[: int(self.cache.lengths_B[row])]
            room = self.cache_tokens - (0 if leaves and self.num_rows == 1 else self.cache.num_tokens)
            self.prefixes.keep(read, lambda number: self.cache.copy_page(row, number), max_tokens=room)

    def make_room(self, num_rows: int, num_tokens: int) -> None:
        """Let the cache have `num_rows` rows of `num_tokens` tokens; prefixes go where that takes their room."""
        rows, num_tokens = len(self.cache.lengths_B), whole_pages(num_tokens)
        if num_rows <= rows and num_tokens <= self.cache.room:
            return
        wished = min(self.max_batch, rows if num_rows <= rows else 2 * rows)
        num_rows = max(num_rows, min(wished, (self.cache_tokens - self.prefixes.num_tokens) // num_tokens))
        assert num_rows * num_tokens <= self.cache_tokens, "the scheduler admits and preempts by the same arithmetic"
        self.prefixes.shrink(self.cache_tokens - num_rows * num_tokens)
        self.cache.resize(num_rows, num_tokens)

    def give_back(self) -> None:
        """Shrink a cache of more than twice what its rows take."""
        self.cache.lengths_B[self.num_rows :] = 0
        needed = whole_pages(self.longest()) if self.num_rows else 0
        if self.cache.num_tokens > 2 * self.num_rows * needed:
            self.cache.resize(self.num_rows, needed)
        self.prefixes.shrink(self.cache_tokens - self.cache.num_tokens)

    def longest(self, num_new: int = 0) -> int:
        """The tokens that the longest row holds or will have read, `num_new` more in running ones."""
        running = self.cache.lengths_B[: self.num_running].tolist()
        return max([length + num_new for length in running] + [len(sequence) for sequence in self.reading], default=0)

    def bill(self, num_tokens: int, *, context: float) -> None:
        """Tell `count` of tokens computed, padding too, that attended to `context` keys each on average."""
        if self.count:
            self.count(flops=forward_flops(self.network.config, num_tokens, context=context), tokens=num_tokens)

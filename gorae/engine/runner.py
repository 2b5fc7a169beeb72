"""The model's side of a step: sequences into cache rows, and one more token for every running row.

Running requests occupy the first rows of the cache, in order; after them come the rows being read, one for each
distinct sequence. Rows and known prefixes hold pages of the cache together; prefixes go where rows need room. Knows
requests only as token ids in rows.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from gorae.config import CacheType, forward_flops
from gorae.engine.passage import Passage
from gorae.engine.prefixes import PrefixCache
from gorae.engine.shortage import is_shortage
from gorae.engine.spill import PageFolder, fingerprint_of, page_keys
from gorae.kernels import TILE_KEYS, log_softmax
from gorae.model import Cache, Network, RepeatedPasses


class Count(Protocol):
    """Takes down the work of one forward pass, such as a `Meter.add`."""

    def __call__(self, *, flops: float, tokens: int) -> None: ...


class Runner:
    """The network, its cache, and `count`, which is told of every forward pass."""

    def __init__(
        self,
        network: Network,
        *,
        num_pages: int,
        prefix_cache: bool,
        count: Count | None,
        folder: PageFolder | None = None,
        cache_type: CacheType | None = None,
    ) -> None:
        self.network = network
        self.cache_type: CacheType | None = cache_type
        self.folder = folder
        self.num_pages = num_pages
        self.prefix_cache = prefix_cache
        self.count = count
        self.renew()

    def renew(self) -> None:
        """Free all memory, and begin with a cache of the network as it now is."""
        for held in ("cache", "prefixes", "passes"):  # first: a GPU may have no room for two
            vars(self).pop(held, None)
        try:
            self.cache = Cache(
                self.network.config,
                num_pages=self.num_pages,
                is_fast=self.network.is_fast,
                cache_type=self.cache_type,
                device=self.network.device,
            )
        except RuntimeError as error:
            if not is_shortage(error):
                raise
            num_tokens = self.num_pages * TILE_KEYS
            raise MemoryError(
                f"there is no memory for a cache of {num_tokens} tokens ({error}); give fewer cache_tokens"
            ) from error
        self.passes = RepeatedPasses(self.network, self.cache)
        self.clear()

    def clear(self) -> None:
        """Free all rows and forget all prefixes, as weights may have changed in their place."""
        self.cache.clear()
        self.prefixes = PrefixCache(self.cache.book)
        self.num_running = 0
        self.reading: list[tuple[int, ...]] = []
        self.fingerprint: str | None = None  # of the weights, once it is asked for

    @property
    def num_rows(self) -> int:
        return self.num_running + len(self.reading)

    @torch.inference_mode()
    def decode(self, token_ids: Sequence[list[int]]) -> tuple[Passage, Tensor]:
        """Append tokens to every running row; returns the pass, and the log-probabilities [N, W] after each token."""
        rows, counts = slice(0, self.num_running), list(map(len, token_ids))
        starts = self.cache.lengths_B[rows].tolist()
        self.make_room([start + count for start, count in zip(starts, counts, strict=True)])
        longest = max(counts)
        padded = [tokens + tokens[-1:] * (longest - len(tokens)) for tokens in token_ids]
        tokens_BT = torch.tensor(padded, device=self.cache.device)
        features = self.passes(tokens_BT, rows)
        counts_B = torch.tensor(counts)
        self.cache.lengths_B[rows] += counts_B
        self.bill(tokens_BT.numel(), context=sum(starts) / len(starts) + (longest + 1) / 2)
        is_own_BT = (torch.arange(longest) < counts_B[:, None]).to(self.cache.device)
        return Passage(starts, counts, features), self.log_probs(features.hidden_BTD[is_own_BT])

    @torch.inference_mode()
    def take_back(self, lengths: Sequence[int]) -> None:
        """Let running rows forget what follows so many tokens of each."""
        for row, (length, held) in enumerate(zip(lengths, self.cache.lengths_B.tolist(), strict=False)):
            if length < held:
                self.cache.take_back(row, length)

    @torch.inference_mode()
    def begin(self, known: Mapping[tuple[int, ...], Sequence[int]]) -> None:
        """Begin to read distinct sequences, behind those pages of each that are known."""
        self.reading = list(known)
        for pages in known.values():
            self.cache.add_row(pages)
        self.make_room(list(map(len, known)), first=self.num_running)

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
        features = self.network(tokens_BT.to(self.cache.device), self.cache, rows)
        self.bill(tokens_BT.numel(), context=start_B.double().mean().item() + tokens_BT.shape[1] / 2)
        self.cache.lengths_B[rows] = torch.minimum(start_B + tokens_BT.shape[1], end_B)
        passage = Passage(start_B.tolist(), (self.cache.lengths_B[rows] - start_B).tolist(), features)
        if num_left > tokens_BT.shape[1]:
            return passage, None
        last_B = (end_B - start_B - 1).to(self.cache.device)
        last_BD = features.hidden_BTD[torch.arange(len(last_B), device=self.cache.device), last_B]
        log_probs_BW = self.log_probs(last_BD)
        for row, sequence in enumerate(self.reading, self.num_running):
            self.keep(row, sequence)
        return passage, log_probs_BW[self.seat(sequences)]

    def log_probs(self, hidden_ND: Tensor) -> Tensor:
        """The log-probabilities [N, W] of what follows N features, on the CPU: one order of sums draws all tokens."""
        return log_softmax(self.network.logits(hidden_ND)).cpu()

    def seat(self, sequences: list[tuple[int, ...]]) -> list[int]:
        """Turn the rows read into running rows, one for each of `sequences`; returns their places among those read."""
        place_of = {sequence: place for place, sequence in enumerate(self.reading)}
        places = [place_of[sequence] for sequence in sequences]
        self.prefixes.make_room(len(places) - len(set(places)))  # equal sequences copy a page each, at most
        self.cache.arrange([*range(self.num_running), *(self.num_running + place for place in places)])
        self.num_running += len(sequences)
        self.reading = []
        return places

    @torch.inference_mode()
    def remove(self, rows: Mapping[int, Sequence[int]]) -> None:
        """Free running rows, keeping what each has read of its sequence; the others move up."""
        for row, sequence in rows.items():
            self.keep(row, sequence)
        self.cache.arrange([row for row in range(self.num_rows) if row not in rows])
        self.num_running -= len(rows)

    @torch.inference_mode()
    def abandon(self) -> None:
        """Stop reading, keeping what has been read."""
        for row, sequence in enumerate(self.reading, self.num_running):
            self.keep(row, sequence)
        self.reading = []
        self.cache.arrange(range(self.num_running))

    def keep(self, row: int, sequence: Sequence[int]) -> None:
        """Let others find what a row has read, those of a later process too where there is a folder."""
        if not self.prefix_cache:
            return
        read, pages = sequence[: int(self.cache.lengths_B[row])], self.cache.held[row]
        new = self.prefixes.keep(read, pages)
        if self.folder is not None and new:
            for number, key in enumerate(self.page_keys(read)):
                if number in new and key not in self.folder:
                    self.folder.write(key, self.cache.page_bytes(pages[number]))

    @torch.inference_mode()
    def recall(self, sequence: Sequence[int]) -> None:
        """Take what the folder has of a sequence's beginning into the cache, behind what is known, if there is room."""
        if self.folder is None:
            return
        book, pages = self.cache.book, self.prefixes.find(sequence)
        num_known = len(pages)
        for key in itertools.islice(self.page_keys(sequence), num_known, None):
            if book.num_available <= sum(map(book.is_idle, pages)) or key not in self.folder:
                break
            if (stored := self.folder.read(key)) is None:
                break
            self.prefixes.make_room(1)
            pages.append(book.take())
            self.cache.fill_page(pages[-1], stored)
            self.prefixes.keep(sequence[: len(pages) * TILE_KEYS], pages)
            book.let_go(pages[-1:])

    def page_keys(self, sequence: Sequence[int]) -> Iterator[str]:
        if self.fingerprint is None:
            self.fingerprint = fingerprint_of(self.network, self.cache_type)
        return page_keys(self.fingerprint, sequence)

    def make_room(self, lengths: Sequence[int], *, first: int = 0) -> None:
        """Let rows from `first` on hold pages for so many tokens each; prefixes go where no page is free."""
        short = [(row, length) for row, length in enumerate(lengths, first) if self.cache.num_missing(row, length)]
        self.prefixes.make_room(sum(self.cache.num_missing(row, length) for row, length in short))
        for row, length in short:
            self.cache.reserve(row, length)

    def has_room(self, num_copied: int, num_tokens: int = 1) -> bool:
        """Whether there is room for `num_tokens` more of every running row, and for copies of so many pages."""
        lengths = self.cache.lengths_B[: self.num_running].tolist()
        missing = sum(self.cache.num_missing(row, length + num_tokens) for row, length in enumerate(lengths))
        return missing + num_copied <= self.cache.book.num_available

    def bill(self, num_tokens: int, *, context: float) -> None:
        """Tell `count` of tokens computed, padding too, that attended to `context` keys each on average."""
        if self.count:
            self.count(flops=forward_flops(self.network.config, num_tokens, context=context), tokens=num_tokens)

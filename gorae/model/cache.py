"""What decoding remembers: keys and values of every layer in pages of `TILE_KEYS` tokens; in fast mode, latents.

Nouns: a row is a sequence and holds the pages of its tokens, in order; whole pages may be shared by rows. A latent is a
key of one head, whose value is its beginning. What is remembered is rounded to the cache's type, each token by itself.
Knows no request and no sampling.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gorae.config import CacheType, ModelConfig, cache_type_of
from gorae.kernels import TILE_KEYS, byte_rows, row_bytes
from gorae.model.pages import PageBook

FAST_TYPE = torch.bfloat16  # of what fast mode looks at without a cache
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


class Remembered(NamedTuple):
    """What one layer remembers of sequences: token s of sequence b lies in page table_BM[b, s // P] at place s % P.

    starts_B: tokens before those that were added last.
    """

    keys_NJPK: Tensor
    values_NJPV: Tensor
    table_BM: Tensor
    starts_B: Tensor


class Cache:
    """Rows over `num_pages` pages, whose memory is touched as they are used.

    Who works on a bounded cache reserves pages, so that padding takes none. Without a bound there are ever more pages,
    and rows take them by themselves.

    cache_type: of what is remembered, by default bfloat16 in fast mode, of which int8 takes 0.53; exact: float32.
    device: where pages lie. Who holds which is known on the CPU, so that nobody waits for a GPU to tell.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_rows: int = 0,
        *,
        num_pages: int | None = None,
        is_fast: bool = False,
        cache_type: CacheType | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        dtype = TYPES[cache_type_of(cache_type, is_fast=is_fast)]
        self.is_bounded = num_pages is not None
        self.book = PageBook(num_pages or 0)
        self.clear(num_rows)
        heads, self.latent_dim = config.key_heads, config.latent_dim if is_fast else None
        widths = [config.key_dim, config.value_dim]
        if self.latent_dim is not None:
            heads, widths = 1, [self.latent_dim + config.rope_dim]
        self.layers = [
            [
                torch.empty(
                    1 + self.book.num_pages, heads, TILE_KEYS, held_width(width, dtype), dtype=dtype, device=self.device
                )
                for width in widths
            ]
            for _ in range(config.num_layers)
        ]

    def clear(self, num_rows: int = 0) -> None:
        """Begin anew with rows that remember nothing, in the same memory."""
        self.book = PageBook(self.book.num_pages)
        self.lengths_B = torch.zeros(num_rows, dtype=torch.long)
        self.held: list[list[int]] = [[] for _ in range(num_rows)]
        self.table_BM = torch.zeros(num_rows, 1, dtype=torch.long)  # `held`, and page 0 behind it

    @property
    def num_rows(self) -> int:
        return len(self.held)

    def num_missing(self, row: int, num_tokens: int) -> int:
        """Pages to take before a row has room for `num_tokens` tokens."""
        return max(0, pages_for(num_tokens) - len(self.held[row]))

    def add_row(self, pages: Sequence[int] = ()) -> None:
        """Add a row that remembers these whole pages, shared with whoever holds or keeps them."""
        self.book.hold(pages)
        self.held.append(list(pages))
        self.lengths_B = F.pad(self.lengths_B, (0, 1), value=len(pages) * TILE_KEYS)
        self.table_BM = F.pad(self.table_BM, (0, 0, 0, 1))
        self._write_table(self.num_rows - 1, 0)

    def reserve(self, row: int, num_tokens: int) -> None:
        """Let a row hold pages for `num_tokens` tokens."""
        first, num_new = len(self.held[row]), self.num_missing(row, num_tokens)
        if num_new:
            self.held[row] += [self._take() for _ in range(num_new)]
            self._write_table(row, first)

    def take_back(self, row: int, length: int) -> None:
        """Let a row forget what follows its first `length` tokens."""
        self.lengths_B[row] = length
        num_pages = pages_for(length)
        self.book.let_go(self.held[row][num_pages:])
        del self.held[row][num_pages:]
        self.table_BM[row, num_pages:] = 0

    def arrange(self, order: Sequence[int]) -> None:
        """Rows are from now on those of `order`, in its order; the others are forgotten.

        A row that is named again shares its whole pages and copies the last, where it is not full.
        """
        for row in set(range(self.num_rows)) - set(order):
            self.book.let_go(self.held[row])
        held: list[list[int]] = []
        copies: dict[int, int] = {}
        seen: set[int] = set()
        lengths = self.lengths_B.tolist()
        for row in order:
            pages = self.held[row]
            if row in seen:
                whole, rest = pages[: lengths[row] // TILE_KEYS], pages[lengths[row] // TILE_KEYS :]
                self.book.hold(whole)
                fresh = [self._take() for _ in rest]
                copies |= zip(fresh, rest, strict=True)
                pages = whole + fresh
            seen.add(row)
            held.append(pages)
        self.held = held
        which = torch.tensor(order, dtype=torch.long)
        self.lengths_B, self.table_BM = self.lengths_B[which], self.table_BM[which]
        if copies:
            self._copy(copies)

    def memories(self, rows: slice, num_new: int) -> list["LayerMemory"]:
        """Each layer's memory of these rows, to be given `num_new` more tokens of each."""
        return self.memories_at(self.places(rows, num_new))

    def memories_at(self, places: "Places") -> list["LayerMemory"]:
        return [LayerMemory(self, layer, places) for layer in range(len(self.layers))]

    def places(self, rows: slice, num_new: int) -> "Places":
        """Where `num_new` more tokens of each row go; those beyond the pages it holds go to page 0."""
        starts_B = self.lengths_B[rows]
        if not self.is_bounded:
            for row, start in enumerate(starts_B.tolist(), rows.start):
                self.reserve(row, start + num_new)
        places_BT = starts_B[:, None] + torch.arange(num_new)
        num_pages = pages_for(int(starts_B.max()) + num_new)
        self._widen_table(num_pages)
        table_BM = self.table_BM[rows]
        found = Places(table_BM, starts_B, table_BM.gather(1, places_BT // TILE_KEYS), places_BT % TILE_KEYS)
        if self.device.type == "cpu":
            return found
        found = found._replace(table_BM=table_BM[:, :num_pages])
        return Places._make(one.to(self.device) for one in found)

    def page_bytes(self, page: int) -> bytes:
        """What all layers hold of a page."""
        held = (pages[page].contiguous() for kinds in self.layers for pages in kinds)
        return b"".join(one.view(torch.uint8).cpu().numpy().tobytes() for one in held)

    def fill_page(self, page: int, stored: bytes) -> None:
        """Let a page hold what `page_bytes` gave."""
        left = torch.frombuffer(bytearray(stored), dtype=torch.uint8).to(self.device)
        for kinds in self.layers:
            for pages in kinds:
                num_bytes = pages[page].nbytes
                pages[page] = left[:num_bytes].view(pages.dtype).view_as(pages[page])
                left = left[num_bytes:]
        assert not len(left), f"{len(left)} bytes of a page are too many"

    def _take(self) -> int:
        if not self.is_bounded and not self.book.num_free:
            self._grow(max(16, 2 * self.book.num_pages))
        return self.book.take()

    def _grow(self, num_pages: int) -> None:
        more = num_pages - self.book.num_pages
        self.book.num_pages = num_pages
        for kinds in self.layers:
            kinds[:] = [torch.cat((held, held.new_empty(more, *held.shape[1:]))) for held in kinds]

    def _copy(self, copies: dict[int, int]) -> None:
        targets, sources = (torch.tensor(list(pages), device=self.device) for pages in (copies, copies.values()))
        for kinds in self.layers:
            for held in kinds:
                held[targets] = held[sources]
        for row, pages in enumerate(self.held):
            if pages and pages[-1] in copies:
                self._write_table(row, 0)

    def _write_table(self, row: int, first: int) -> None:
        pages = self.held[row][first:]
        self._widen_table(first + len(pages))
        self.table_BM[row, first : first + len(pages)] = torch.tensor(pages, dtype=torch.long)

    def _widen_table(self, width: int) -> None:
        if (held := self.table_BM.shape[1]) < width:
            self.table_BM = F.pad(self.table_BM, (0, max(width, 2 * held) - held))


class Places(NamedTuple):
    """Pages of some rows, and the page and the place in it of each of their new tokens."""

    table_BM: Tensor
    starts_B: Tensor
    pages_BT: Tensor
    places_BT: Tensor


class LayerMemory:
    """One layer's share of a cache in a forward pass over some rows."""

    def __init__(self, cache: Cache, layer: int, places: Places) -> None:
        self.cache, self.layer, self.places = cache, layer, places

    def extend(self, key_BJTK: Tensor, value_BJTV: Tensor | None = None) -> Remembered:
        """Write the new tokens; returns all that the rows remember, from the start on."""
        kinds, new = self.cache.layers[self.layer], (key_BJTK, value_BJTV)
        table_BM, starts_B, pages_BT, places_BT = self.places
        for held, one in zip(kinds, new, strict=False):
            assert one is not None, "keys of several heads come with values"
            held[pages_BT, :, places_BT] = rounded(one.transpose(1, 2), held.dtype)
        keys_NJPK, values_NJPV = kinds[0], kinds[-1]
        if self.cache.latent_dim is not None:
            values_NJPV = keys_NJPK[..., : held_width(self.cache.latent_dim, keys_NJPK.dtype)]
        return Remembered(keys_NJPK, values_NJPV, table_BM, starts_B)


def held_width(width: int, dtype: torch.dtype) -> int:
    """Elements of a tensor of this type that hold so many numbers."""
    return row_bytes(width) if dtype == torch.int8 else width


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers [..., K] as a cache of this type holds them."""
    return byte_rows(x) if dtype == torch.int8 else x.to(dtype)


def pages_for(num_tokens: int) -> int:
    """Pages that so many tokens take."""
    return -(-num_tokens // TILE_KEYS)


def own_pages(key_BJTK: Tensor, value_BJTV: Tensor | None = None, *, latent_dim: int | None = None) -> Remembered:
    """Sequences that are read whole and not to be remembered, in pages; values are given, or begin the keys."""
    num_rows, num_tokens = len(key_BJTK), key_BJTK.shape[2]
    num_pages = pages_for(num_tokens)

    def paged(held_BJTK: Tensor) -> Tensor:
        filled = F.pad(held_BJTK, (0, 0, 0, num_pages * TILE_KEYS - num_tokens))
        return filled.unflatten(2, (num_pages, TILE_KEYS)).transpose(1, 2).flatten(0, 1)

    keys_NJPK = paged(key_BJTK.to(FAST_TYPE))
    values_NJPV = keys_NJPK[..., :latent_dim] if value_BJTV is None else paged(value_BJTV.to(FAST_TYPE))
    table_BM = torch.arange(num_rows * num_pages, device=key_BJTK.device).view(num_rows, num_pages)
    starts_B = torch.zeros(num_rows, dtype=torch.long, device=key_BJTK.device)
    return Remembered(keys_NJPK, values_NJPV, table_BM, starts_B)

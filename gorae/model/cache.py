"""What decoding remembers: keys and values of every layer, one row a sequence; in fast mode, latents.

A latent is held as a key of one head, in bfloat16, and its values are none: attention takes them from the key.
Rows in use are always the first ones, so that a step reads plain views. Knows no request and no sampling.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gorae.config import ModelConfig
from gorae.kernels import TILE_KEYS, whole_pages

LATENT_TYPE = torch.bfloat16


class Remembered(NamedTuple):
    """What one layer remembers of sequences, in pages: those of sequence b are `table_BM[b]`.

    starts_B: tokens before those that were added last.
    """

    keys_NJPK: Tensor
    table_BM: Tensor
    starts_B: Tensor


class Page(NamedTuple):
    """What every layer remembers of `TILE_KEYS` tokens, a copy that may outlive its row."""

    keys_LHPK: Tensor
    values_LHPV: Tensor


class Cache:
    """Keys and values of up to `num_rows` sequences; room for tokens grows as they come."""

    def __init__(self, config: ModelConfig, num_rows: int, *, is_fast: bool = False) -> None:
        self.lengths_B = torch.zeros(num_rows, dtype=torch.long)
        heads, widths, dtype = config.key_heads, (config.key_dim, config.value_dim), torch.float32
        if is_fast and config.latent_dim is not None:
            heads, widths, dtype = 1, (config.latent_dim + config.rope_dim, 0), LATENT_TYPE
        key, value = (torch.zeros(num_rows, heads, 0, width, dtype=dtype) for width in widths)
        self.layers = [(key, value)] * config.num_layers

    @property
    def room(self) -> int:
        """Tokens that a row can hold."""
        return self.layers[0][0].shape[2]

    @property
    def num_tokens(self) -> int:
        """Tokens that all rows can hold, used or not: what the cache takes in memory."""
        return len(self.lengths_B) * self.room

    def reserve(self, num_tokens: int) -> None:
        """Make room for `num_tokens` tokens a row."""
        if num_tokens > self.room:
            self.resize(len(self.lengths_B), num_tokens)

    def resize(self, num_rows: int, num_tokens: int) -> None:
        """Hold `num_rows` rows of `num_tokens` tokens, in whole pages; what lies beyond either is forgotten."""
        rows, room = min(num_rows, len(self.lengths_B)), min(whole_pages(num_tokens), self.room)

        def resized(held: Tensor) -> Tensor:
            larger = held.new_zeros(num_rows, held.shape[1], whole_pages(num_tokens), held.shape[3])
            larger[:rows, :, :room] = held[:rows, :, :room]
            return larger

        for layer, (keys, values) in enumerate(self.layers):  # one after the other: only a layer is held twice
            self.layers[layer] = (resized(keys), resized(values))
        lengths_B = self.lengths_B.new_zeros(num_rows)
        lengths_B[:rows] = self.lengths_B[:rows]
        self.lengths_B = lengths_B

    def extend(self, layer: int, rows: slice, key_BHTK: Tensor, value_BHTV: Tensor) -> tuple[Tensor, Tensor]:
        """Write T new tokens after each row's length; return keys and values from the start on, [B, H, S, ·].

        S is a whole number of key pages: what lies beyond a row's tokens is for the mask to hide.
        """
        num_new = key_BHTK.shape[2]
        start_B = self.lengths_B[rows]
        num_held = whole_pages(int(start_B.max()) + num_new)
        which_B1 = torch.arange(rows.start, rows.stop)[:, None]
        places_BT = start_B[:, None] + torch.arange(num_new)
        views = []
        for held, new in zip(self.layers[layer], (key_BHTK, value_BHTV), strict=True):
            held[which_B1, :, places_BT] = new.transpose(1, 2).to(held.dtype)
            views.append(held[rows, :, :num_held])
        return views[0], views[1]

    def remember(self, layer: int, rows: slice, key_B1TK: Tensor) -> Remembered:
        """Write T new latents after each row's length; returns all, from the start on."""
        keys_B1SK, _ = self.extend(layer, rows, key_B1TK, key_B1TK[..., :0])
        pages = self.layers[layer][0].flatten(0, 2).unflatten(0, (-1, 1, TILE_KEYS))
        first_B1 = torch.arange(rows.start, rows.stop)[:, None] * (self.room // TILE_KEYS)
        return Remembered(pages, first_B1 + torch.arange(keys_B1SK.shape[2] // TILE_KEYS), self.lengths_B[rows])

    def adopt(self, rows: list[int], source: "Cache", source_rows: list[int]) -> None:
        """Let `rows` remember what `source_rows` of another cache, or of this one, remember."""
        lengths = source.lengths_B[source_rows]
        num_held = int(lengths.max())
        self.reserve(num_held)
        for mine, theirs in zip(self.layers, source.layers, strict=True):
            for held, given in zip(mine, theirs, strict=True):
                held[rows, :, :num_held] = given[source_rows, :, :num_held]
        self.lengths_B[rows] = lengths

    def copy_page(self, row: int, number: int) -> Page:
        """The tokens from `number` whole pages after the row's start."""
        place = slice(number * TILE_KEYS, (number + 1) * TILE_KEYS)
        keys, values = zip(*self.layers, strict=True)
        return Page(*(torch.stack([held[row, :, place] for held in kind]) for kind in (keys, values)))

    def begin(self, row: int, pages: Sequence[Page]) -> None:
        """Let a row remember these pages and nothing else."""
        self.lengths_B[row] = len(pages) * TILE_KEYS
        self.reserve(len(pages) * TILE_KEYS)
        for number, page in enumerate(pages):
            place = slice(number * TILE_KEYS, (number + 1) * TILE_KEYS)
            for layer, (keys, values) in enumerate(self.layers):
                keys[row, :, place], values[row, :, place] = page.keys_LHPK[layer], page.values_LHPV[layer]


class LayerMemory:
    """One layer's share of a cache: the rows a forward pass works on."""

    def __init__(self, cache: Cache, layer: int, rows: slice) -> None:
        self.cache, self.layer, self.rows = cache, layer, rows

    def extend(self, key_BHTK: Tensor, value_BHTV: Tensor) -> tuple[Tensor, Tensor]:
        return self.cache.extend(self.layer, self.rows, key_BHTK, value_BHTV)

    def remember(self, key_B1TK: Tensor) -> Remembered:
        return self.cache.remember(self.layer, self.rows, key_B1TK)


def own_pages(key_BJTK: Tensor) -> Remembered:
    """Sequences that are read whole and not to be remembered, as pages."""
    num_rows, num_tokens = len(key_BJTK), key_BJTK.shape[2]
    num_pages = whole_pages(num_tokens) // TILE_KEYS
    filled = F.pad(key_BJTK, (0, 0, 0, num_pages * TILE_KEYS - num_tokens))
    pages_NJPK = filled.unflatten(2, (num_pages, TILE_KEYS)).transpose(1, 2).flatten(0, 1)
    table_BM = torch.arange(num_rows * num_pages).view(num_rows, num_pages)
    return Remembered(pages_NJPK, table_BM, torch.zeros(num_rows, dtype=torch.long))

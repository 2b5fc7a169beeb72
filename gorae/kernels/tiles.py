"""Whole tiles: the padding that makes a row's bits independent of the number of rows beside it.

Measured on AVX2 with MKL (facts behind docs/numerics.md): a float32 product gives the same bits for a row whatever
the batch and wherever it lies in memory, once its rows come in eights and it has 16 columns or more, and attention
once keys come in blocks of 32.

A GPU's library chooses an order of summation by a product's shape. So there every product has one of few shapes, and
layouts: `GPU_ROWS` rows, and in attention `GPU_SEQUENCES` by `GPU_QUERIES` by `GPU_KEYS`. That has not been measured.
"""

import torch.nn.functional as F
from torch import Tensor

TILE_ROWS = 8
TILE_KEYS = 32
LEAST_COLUMNS = 16

GPU_ROWS = 64
GPU_SEQUENCES, GPU_QUERIES, GPU_KEYS = 16, 32, 128


def whole_pages(num_keys: int) -> int:
    """`num_keys` rounded up to whole key pages: keys kept in such room need no copy before attention."""
    return -(-num_keys // TILE_KEYS) * TILE_KEYS


def pad_rows(x: Tensor, tile: int) -> Tensor:
    """Append zero rows (dimension -2) until they fill whole tiles, one at least."""
    missing = max(tile, -(-x.shape[-2] // tile) * tile) - x.shape[-2]
    return F.pad(x, (0, 0, 0, missing)) if missing else x


def pad_columns(x: Tensor) -> Tensor:
    """Append zero columns (dimension -1) until there are `LEAST_COLUMNS`."""
    missing = max(0, LEAST_COLUMNS - x.shape[-1])
    return F.pad(x, (0, missing)) if missing else x

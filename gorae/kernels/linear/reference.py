"""The definition of `linear` in plain torch, over whole tiles of rows laid out one after the other."""

import torch
from torch import Tensor

from gorae.kernels.tiles import TILE_ROWS, pad_columns, pad_rows
from gorae.kernels.weights import Weight, bands


def linear_reference(x: Tensor, weight: Weight) -> Tensor:
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    padded = pad_rows(rows, TILE_ROWS)
    products = [(padded @ pad_columns(band.contiguous().T))[:, : band.shape[0]] for band in bands(weight)]
    y = products[0] if len(products) == 1 else torch.cat(products, dim=-1)
    return y[: rows.shape[0]].reshape(*x.shape[:-1], weight.shape[0])

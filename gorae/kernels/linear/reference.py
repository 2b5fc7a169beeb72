"""The definition of `linear` in plain torch, over whole tiles of rows laid out one after the other."""

from torch import Tensor

from gorae.kernels.tiles import TILE_ROWS, pad_columns, pad_rows


def linear_reference(x: Tensor, weight: Tensor) -> Tensor:
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    y = pad_rows(rows, TILE_ROWS) @ pad_columns(weight.to(x.dtype).contiguous().T)
    return y[: rows.shape[0], : weight.shape[0]].reshape(*x.shape[:-1], weight.shape[0])

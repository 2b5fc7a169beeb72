"""The definition of `linear` in plain torch, over whole tiles of rows laid out one after the other."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gorae.kernels.backend import as_matrix
from gorae.kernels.tiles import GPU_ROWS, TILE_ROWS, pad_columns, pad_rows
from gorae.kernels.weights import Weight, bands, whole


def linear_reference(x: Tensor, weight: Weight) -> Tensor:
    return ReferenceLinear.apply(x, weight)  # pyright: ignore[reportReturnType]


class ReferenceLinear(torch.autograd.Function):
    """Keeps the rows and the weight as it is held for the gradient, not what it is widened to."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Weight) -> Tensor:
        learns = isinstance(weight, Tensor)
        ctx.save_for_backward(x, weight if learns else None)
        ctx.weight = None if learns else weight
        return product(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ (whole(ctx.weight) if weight is None else weight.to(grad.dtype))
        if weight is not None and ctx.needs_input_grad[1]:
            grad_weight = (as_matrix(grad).T @ as_matrix(x)).to(weight.dtype)
        return grad_x, grad_weight


def product(x: Tensor, weight: Weight) -> Tensor:
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    padded = pad_rows(rows, TILE_ROWS if x.is_cpu else GPU_ROWS)
    products = [multiplied(padded, pad_columns(band.contiguous().T))[:, : band.shape[0]] for band in bands(weight)]
    y = products[0] if len(products) == 1 else torch.cat(products, dim=-1)
    return y[: rows.shape[0]].reshape(*x.shape[:-1], weight.shape[0])


def multiplied(rows: Tensor, columns: Tensor) -> Tensor:
    """rows @ columns; on a GPU tile by tile, all of one shape."""
    if rows.is_cpu:
        return rows @ columns
    if rows.storage_offset():  # an odd address could be multiplied in another way
        rows = rows.clone()
    return torch.cat([tile @ columns for tile in rows.split(GPU_ROWS)])

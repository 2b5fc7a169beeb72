"""`rms_norm` by the compiled kernel (cpu.cc); its gradient by PyTorch, from the factor each row was multiplied by."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gorae.kernels.backend import as_matrix, in_rows, row_stride, wants_gradient


def rms_norm_cpu(native: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    if wants_gradient(x, weight):
        return NativeNorm.apply(native, x, weight, eps)  # pyright: ignore[reportReturnType]
    return normed(native, x, weight, eps)[0]


class NativeNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, native: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, inverse = normed(native, x, weight, eps)
        ctx.save_for_backward(x, weight, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, inverse = ctx.saved_tensors
        unit, weighted = x * inverse, grad * weight
        grad_weight = as_matrix(grad * unit).sum(0)
        grad_x = (weighted - unit * (weighted * unit).mean(-1, keepdim=True)).mul_(inverse)
        return None, grad_x, grad_weight, None


def normed(native: Any, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The normalised rows, and 1 / sqrt(mean(x²) + eps) of each, [*rows, 1]."""
    x, weight = in_rows(x), weight.contiguous()
    width = x.shape[-1]
    assert weight.shape == (width,), f"weight is {tuple(weight.shape)}, rows are {width} wide"
    y, inverse = torch.empty(x.shape), torch.empty(*x.shape[:-1], 1)
    native.rms_norm(
        x.data_ptr(),
        inverse.numel(),
        width,
        row_stride(x),
        weight.data_ptr(),
        eps,
        y.data_ptr(),
        inverse.data_ptr(),
        torch.get_num_threads(),
    )
    return y, inverse

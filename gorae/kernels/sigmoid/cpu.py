"""`sigmoid` by the compiled kernel (cpu.cc); its derivative is taken from the result."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gorae.kernels.backend import wants_gradient


def sigmoid_cpu(native: Any, x: Tensor) -> Tensor:
    return NativeSigmoid.apply(native, x) if wants_gradient(x) else logistic(native, x)  # pyright: ignore[reportReturnType]


class NativeSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx, native: Any, x: Tensor) -> Tensor:
        y = logistic(native, x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (y,) = ctx.saved_tensors
        return None, grad * y * (1 - y)


def logistic(native: Any, x: Tensor) -> Tensor:
    x = x.contiguous()
    y = torch.empty(x.shape)
    native.sigmoid(x.data_ptr(), y.data_ptr(), x.numel(), torch.get_num_threads())
    return y

"""`log_softmax` by the compiled kernel (cpu.cc); its gradient is taken from the result."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gorae.kernels.backend import in_rows, row_stride, wants_gradient


def log_softmax_cpu(native: Any, logits: Tensor) -> Tensor:
    return NativeLogSoftmax.apply(native, logits) if wants_gradient(logits) else log_shares(native, logits)  # pyright: ignore[reportReturnType]


class NativeLogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, native: Any, logits: Tensor) -> Tensor:
        y = log_shares(native, logits)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (y,) = ctx.saved_tensors
        return None, torch.ops.aten._log_softmax_backward_data(grad, y, -1, grad.dtype)


def log_shares(native: Any, logits: Tensor) -> Tensor:
    x = in_rows(logits)
    y = torch.empty(x.shape)
    width = x.shape[-1]
    native.log_softmax(
        x.data_ptr(), x.numel() // max(1, width), width, row_stride(x), y.data_ptr(), torch.get_num_threads()
    )
    return y

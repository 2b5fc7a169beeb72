"""`linear` by the compiled kernel (cpu.cc); gradients by PyTorch's products, since only the forward is law."""

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gorae.kernels.backend import as_matrix, in_rows, row_stride
from gorae.kernels.weights import Weight, place_of, whole, with_contiguous_rows


def linear_cpu(native: Any, x: Tensor, weight: Weight, kind: int) -> Tensor:
    """x float32; a weight of a kind that the kernel reads, widened as it is read."""
    if torch.is_grad_enabled():
        if not isinstance(weight, Tensor):
            return NativeHeldLinear.apply(native, x, weight, kind)  # pyright: ignore[reportReturnType]
        if x.requires_grad or weight.requires_grad:
            return NativeLinear.apply(native, x, weight, kind)  # pyright: ignore[reportReturnType]
    return product(native, x, weight, kind)


class NativeLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, native: Any, x: Tensor, weight: Tensor, kind: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(native, x, weight, kind)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        grad_x = grad @ weight.to(grad.dtype) if ctx.needs_input_grad[1] else None
        grad_weight = (as_matrix(grad).T @ as_matrix(x)).to(weight.dtype) if ctx.needs_input_grad[2] else None
        return None, grad_x, grad_weight, None


class NativeHeldLinear(torch.autograd.Function):
    """With a weight that does not learn."""

    @staticmethod
    def forward(ctx, native: Any, x: Tensor, weight: Weight, kind: int) -> Tensor:
        ctx.weight = weight
        return product(native, x, weight, kind)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, grad @ whole(ctx.weight), None, None


def product(native: Any, x: Tensor, weight: Weight, kind: int) -> Tensor:
    x, weight = in_rows(x), with_contiguous_rows(weight)
    *leading, num_inputs = x.shape
    num_outputs, num_wanted = weight.shape
    assert num_wanted == num_inputs, f"x is {num_inputs} wide, weight takes {num_wanted}"
    y = torch.empty(*leading, num_outputs)
    native.linear(
        x.data_ptr(),
        x.numel() // num_inputs if num_inputs else prod(leading),
        row_stride(x),
        kind,
        place_of(weight),
        num_outputs,
        num_inputs,
        y.data_ptr(),
        torch.get_num_threads(),
    )
    return y

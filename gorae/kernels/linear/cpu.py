"""`linear` by the compiled kernel (cpu.cc); gradients by PyTorch's products, since only the forward is law."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gorae.kernels.backend import in_rows, wants_gradient


def linear_cpu(native: Any, x: Tensor, weight: Tensor) -> Tensor:
    """x float32; weight float32 or bfloat16, which is widened as it is read."""
    return NativeLinear.apply(native, x, weight) if wants_gradient(x, weight) else product(native, x, weight)  # pyright: ignore[reportReturnType]


class NativeLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, native: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(native, x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        grad_x = grad @ weight.to(grad.dtype) if ctx.needs_input_grad[1] else None
        grad_weight = (in_rows(grad).T @ in_rows(x)).to(weight.dtype) if ctx.needs_input_grad[2] else None
        return None, grad_x, grad_weight


def product(native: Any, x: Tensor, weight: Tensor) -> Tensor:
    rows, weight = in_rows(x), in_rows(weight)
    (num_rows, num_inputs), num_outputs = rows.shape, weight.shape[0]
    assert weight.shape[1] == num_inputs, f"x is {num_inputs} wide, weight takes {weight.shape[1]}"
    y = torch.empty(num_rows, num_outputs)
    native.linear(
        rows.data_ptr(),
        num_rows,
        rows.stride(0),
        weight.data_ptr(),
        weight.dtype == torch.bfloat16,
        num_outputs,
        num_inputs,
        weight.stride(0),
        y.data_ptr(),
        torch.get_num_threads(),
    )
    return y.view(*x.shape[:-1], num_outputs)

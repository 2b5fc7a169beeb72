"""`swiglu` by the compiled kernel (cpu.cc), which keeps nothing for the gradient but gate and up."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gorae.kernels.backend import wants_gradient


def swiglu_cpu(native: Any, gate: Tensor, up: Tensor) -> Tensor:
    return NativeSwiglu.apply(native, gate, up) if wants_gradient(gate, up) else gated(native, gate, up)  # pyright: ignore[reportReturnType]


class NativeSwiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, native: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return gated(native, gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        gate, up = ctx.saved_tensors
        return None, *swiglu_gradients(gate, up, grad)


def swiglu_gradients(gate: Tensor, up: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Of gate and up, for the gradient of silu(gate) · up."""
    return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


def gated(native: Any, gate: Tensor, up: Tensor) -> Tensor:
    gate, up = gate.contiguous(), up.contiguous()
    assert gate.shape == up.shape, f"gate is {tuple(gate.shape)} and up is {tuple(up.shape)}"
    y = torch.empty(gate.shape)
    native.swiglu(gate.data_ptr(), up.data_ptr(), y.data_ptr(), gate.numel(), torch.get_num_threads())
    return y

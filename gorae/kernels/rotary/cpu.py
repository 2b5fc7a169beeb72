"""`rotate` by the compiled kernel (cpu.cc); its gradient turns back."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gorae.kernels.backend import wants_gradient


def rotate_cpu(native: Any, x: Tensor, angles: Tensor, interleaved: bool) -> Tensor:
    """x of up to three dimensions before its last; angles that do not learn."""
    if wants_gradient(x):
        return NativeRotation.apply(native, x, angles, interleaved)  # pyright: ignore[reportReturnType]
    return turned(native, x, angles, interleaved)


class NativeRotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, native: Any, x: Tensor, angles: Tensor, interleaved: bool) -> Tensor:
        ctx.save_for_backward(angles)
        ctx.native, ctx.interleaved = native, interleaved
        return turned(native, x, angles, interleaved)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (angles,) = ctx.saved_tensors
        return None, turned(ctx.native, grad, angles, ctx.interleaved, back=True), None, None


def turned(native: Any, x: Tensor, angles: Tensor, interleaved: bool, *, back: bool = False) -> Tensor:
    x = x if x.stride(-1) == 1 else x.contiguous()
    angles = angles if angles.stride(-1) == 1 else angles.contiguous()
    *leading, width = x.shape
    sizes = angles.shape[1:-1]
    assert (angles.shape[0], angles.shape[-1]) == (2, width // 2), f"angles {tuple(angles.shape)} for rows of {width}"
    assert all(n in (1, m) for n, m in zip(sizes[::-1], leading[::-1], strict=False)), f"angles {sizes} for {leading}"
    y = torch.empty(x.shape)
    native.rotate(
        x.data_ptr(),
        in_three(x.stride()[:-1], 0),
        angles.data_ptr(),
        in_three([0 if size == 1 else step for size, step in zip(sizes, angles.stride()[1:-1], strict=True)], 0),
        angles.stride(0),
        in_three(leading, 1),
        width // 2,
        interleaved,
        back,
        y.data_ptr(),
        torch.get_num_threads(),
    )
    return y


def in_three(numbers: Sequence[int], filling: int) -> tuple[int, ...]:
    """`numbers` of up to three dimensions, the missing ones before them."""
    return (*(filling for _ in range(3 - len(numbers))), *numbers)

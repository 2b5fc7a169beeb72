"""`head_linear` by the compiled kernel of panels (linear/quantised.cc), where a head fills its panels."""

from math import prod
from typing import Any

import torch
from torch import Tensor

from gorae.kernels.linear.quantised import product
from gorae.kernels.panels import PANEL, Panels


def fits(x: Tensor, weight: Panels) -> bool:
    num_heads = x.shape[-2]
    return weight.bits < 16 and weight.shape[0] % (num_heads * PANEL) == 0 and weight.packed.is_cpu


def head_linear_cpu(native: Any, x: Tensor, weight: Panels) -> Tensor:
    x = x if are_even(x) else x.contiguous()
    *leading, num_heads, _ = x.shape
    y = torch.empty(*leading, num_heads, weight.shape[0] // num_heads)
    row_step = x.stride(-3) if leading else 0
    product(native, x, (prod(leading), num_heads), (row_step, x.stride(-2)), weight, y)
    return y


def are_even(x: Tensor) -> bool:
    """Whether a head's numbers are contiguous, and all its rows equally far apart."""
    if x.is_contiguous():
        return True
    steps, sizes = x.stride(), x.shape
    return steps[-1] == 1 and all(steps[i] == steps[i + 1] * sizes[i + 1] for i in range(x.ndim - 3))

"""Products with panels of 4 and 8 bits: their definition in plain torch, and the call of the compiled kernel.

An input row is rounded to 8 bits, each group of 32 numbers with a scale of its own, so that products of integers do.
"""

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gorae.kernels.backend import in_rows, row_stride
from gorae.kernels.linear.reference import linear_reference
from gorae.kernels.panels import GROUP, Panels

LARGEST = 127


def linear_quantised(native: Any | None, x: Tensor, weight: Panels) -> Tensor:
    if native is None or not weight.packed.is_cpu:
        return linear_reference(rounded(x.detach()), weight)
    x = in_rows(x)
    leading = x.shape[:-1]
    y = torch.empty(*leading, weight.shape[0])
    product(native, x, (prod(leading), 1), (row_stride(x), 0), weight, y)
    return y


def product(native: Any, x: Tensor, sizes: tuple[int, int], steps: tuple[int, int], weight: Panels, y: Tensor) -> None:
    """Fill y [rows, heads, O]; `sizes` are rows and heads, `steps` the numbers from one to the next in x."""
    num_rows, num_heads = sizes
    num_outputs, num_inputs = weight.shape
    assert x.shape[-1] == num_inputs, f"x is {x.shape[-1]} wide, weight takes {num_inputs}"
    native.panel_linear(
        x.data_ptr(),
        num_rows,
        num_heads,
        num_inputs,
        *steps,
        weight.packed.data_ptr(),
        weight.bits,
        num_outputs // num_heads,
        y.data_ptr(),
        torch.get_num_threads(),
    )


def rounded(x: Tensor) -> Tensor:
    """`x` as the integer products see it: int8, times a float32 scale for each group of a row."""
    num_inputs = x.shape[-1]
    groups = F.pad(x, (0, -num_inputs % GROUP)).unflatten(-1, (-1, GROUP))
    scales = groups.abs().amax(-1, keepdim=True) / LARGEST
    inverses = scales.reciprocal()
    numbers = (groups * torch.where(inverses.isinf(), 0.0, inverses)).round()
    return (numbers * scales).flatten(-2)[..., :num_inputs]

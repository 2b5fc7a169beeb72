"""Products with panels of 4 and 8 bits: their definition in plain torch.

An input row is rounded to 8 bits, each group of 32 numbers with a scale of its own, so that products of integers do.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gorae.kernels.linear.reference import linear_reference
from gorae.kernels.panels import GROUP, Panels

LARGEST = 127


def linear_quantised(x: Tensor, weight: Panels) -> Tensor:
    return linear_reference(rounded(x.detach()), weight)


def rounded(x: Tensor) -> Tensor:
    """`x` as the integer products see it: int8, times a float32 scale for each group of a row."""
    num_inputs = x.shape[-1]
    groups = F.pad(x, (0, -num_inputs % GROUP)).unflatten(-1, (-1, GROUP))
    scales = groups.abs().amax(-1, keepdim=True) / LARGEST
    numbers = torch.where(scales == 0, 0.0, groups / scales).round().clamp(-LARGEST, LARGEST)
    return (numbers * scales).flatten(-2)[..., :num_inputs]

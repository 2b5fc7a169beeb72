"""y = x Wᵀ: the product every projection of the network goes through."""

import torch
from jaxtyping import Float
from torch import Tensor

from gorae.kernels.backend import native_for
from gorae.kernels.linear.cpu import linear_cpu
from gorae.kernels.linear.quantised import linear_quantised
from gorae.kernels.linear.reference import linear_reference
from gorae.kernels.panels import Panels
from gorae.kernels.weights import FLOAT32, BlockScaled, bands, device_of, kind_of


def linear(
    x: Float[Tensor, "*rows I"], weight: Float[Tensor, "O I"] | BlockScaled | Panels
) -> Float[Tensor, "*rows O"]:
    """Multiply every row of float32 `x` by `weight` transposed; a row's bits do not depend on the other rows.

    A weight [O, I] held in a narrower type gives the bits of the float32 matrix of the same values. Panels of 4 and 8
    bits are inexact: `x` is rounded to 8 bits too, and there are no gradients.
    """
    if isinstance(weight, Panels) and weight.bits < 16:
        return linear_quantised(native_for(x), x, weight)
    native = native_for(x)
    if native is None:
        return linear_reference(x, weight)
    kind = kind_of(weight)
    if kind is not None:
        return linear_cpu(native, x, weight, kind)
    if device_of(weight) != x.device:  # for PyTorch to refuse
        return linear_reference(x, weight)
    return torch.cat([linear_cpu(native, x, band, FLOAT32) for band in bands(weight)], dim=-1)

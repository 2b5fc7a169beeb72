"""Rotary position embedding (arXiv 2104.09864), over adjacent pairs as DeepSeek stores them or over halves."""

from jaxtyping import Float, Int
from torch import Tensor

from gorae.kernels.backend import native_for, wants_gradient
from gorae.kernels.rotary.cpu import rotate_cpu
from gorae.kernels.rotary.reference import rotary_angles_reference, rotate_reference


def rotary_angles(
    positions: Int[Tensor, "*rows"], frequencies: Float[Tensor, " half"], scale: float = 1.0
) -> Float[Tensor, "2 *rows half"]:
    """Cosine and sine of position · frequency for each of the R/2 pairs, times `scale`."""
    return rotary_angles_reference(positions, frequencies, scale)


def rotate(
    x: Float[Tensor, "*rows R"], angles: Float[Tensor, "2 *rows_ half"], *, interleaved: bool = True
) -> Float[Tensor, "*rows R"]:
    """Rotate each pair, (x₂ᵢ, x₂ᵢ₊₁) or, not interleaved, (xᵢ, xᵢ₊R/2); `angles` broadcasts against the rows of `x`."""
    native = native_for(x, angles)
    if native is not None and 1 < x.ndim <= 4 and not wants_gradient(angles):
        return rotate_cpu(native, x, angles, interleaved)
    return rotate_reference(x, angles, interleaved)

"""Root-mean-square normalisation (arXiv 1910.07467)."""

from jaxtyping import Float
from torch import Tensor

from gorae.kernels.backend import native_for
from gorae.kernels.rms_norm.cpu import rms_norm_cpu
from gorae.kernels.rms_norm.reference import rms_norm_reference


def rms_norm(x: Float[Tensor, "*rows D"], weight: Float[Tensor, " D"], eps: float) -> Float[Tensor, "*rows D"]:
    """x / sqrt(mean(x²) + eps) · weight, row by row; a weight in a narrower type gives the bits of float32."""
    weight = weight.float()
    native = native_for(x, weight)
    return rms_norm_reference(x, weight, eps) if native is None else rms_norm_cpu(native, x, weight, eps)

"""y = x Wᵀ: the product every projection of the network goes through."""

from jaxtyping import Float
from torch import Tensor

from gorae.kernels.backend import native_for
from gorae.kernels.linear.cpu import linear_cpu
from gorae.kernels.linear.reference import linear_reference


def linear(x: Float[Tensor, "*rows I"], weight: Float[Tensor, "O I"]) -> Float[Tensor, "*rows O"]:
    """Multiply every row of `x` by `weight` transposed; a row's bits do not depend on the other rows.

    A bfloat16 weight gives the bits of the same numbers in float32.
    """
    native = native_for(x, weights=(weight,))
    return linear_reference(x, weight) if native is None else linear_cpu(native, x, weight)

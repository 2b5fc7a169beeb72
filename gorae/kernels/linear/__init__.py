"""y = x Wᵀ: the product every projection of the network goes through."""

from jaxtyping import Float
from torch import Tensor

from gorae.kernels.linear.reference import linear_reference
from gorae.kernels.weights import BlockScaled


def linear(x: Float[Tensor, "*rows I"], weight: Float[Tensor, "O I"] | BlockScaled) -> Float[Tensor, "*rows O"]:
    """Multiply every row of float32 `x` by `weight` transposed; a row's bits do not depend on the other rows.

    A weight [O, I] held in a narrower type stands for the float32 matrix of the same values.
    """
    return linear_reference(x, weight)

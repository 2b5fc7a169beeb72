"""A product with a matrix of its own for every head, as absorbed latent attention takes for queries and mixtures."""

from jaxtyping import Float
from torch import Tensor

from gorae.kernels.backend import native_for
from gorae.kernels.head_linear.cpu import fits, head_linear_cpu
from gorae.kernels.head_linear.reference import head_linear_reference
from gorae.kernels.panels import Panels
from gorae.kernels.weights import BlockScaled


def head_linear(
    x: Float[Tensor, "*rows H I"], weight: Float[Tensor, "HO I"] | BlockScaled | Panels
) -> Float[Tensor, "*rows H O"]:
    """Multiply head h of every row of `x` by block h of the rows of `weight` [H · O, I], each as `linear` does."""
    native = native_for(x)
    if native is not None and isinstance(weight, Panels) and fits(x, weight):
        return head_linear_cpu(native, x, weight)
    return head_linear_reference(x, weight)

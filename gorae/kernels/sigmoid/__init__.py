"""The logistic function, with the same bits wherever an element stands."""

from jaxtyping import Float
from torch import Tensor

from gorae.kernels.backend import native_for
from gorae.kernels.sigmoid.cpu import sigmoid_cpu
from gorae.kernels.sigmoid.reference import Sigmoid


def sigmoid(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """1 / (1 + exp(-x)), element by element."""
    native = native_for(x)
    return Sigmoid.apply(x) if native is None else sigmoid_cpu(native, x)  # pyright: ignore[reportReturnType]

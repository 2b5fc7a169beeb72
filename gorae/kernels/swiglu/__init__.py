"""SwiGLU: silu(gate) · up (arXiv 2002.05202)."""

from jaxtyping import Float
from torch import Tensor

from gorae.kernels.backend import native_for
from gorae.kernels.swiglu.cpu import swiglu_cpu
from gorae.kernels.swiglu.reference import swiglu_reference


def swiglu(gate: Float[Tensor, "*rows F"], up: Float[Tensor, "*rows F"]) -> Float[Tensor, "*rows F"]:
    """silu(gate) · up, element by element; an element's bits do not depend on where it stands."""
    native = native_for(gate, up)
    return swiglu_reference(gate, up) if native is None else swiglu_cpu(native, gate, up)

"""A dense SwiGLU feed-forward: down(swiglu(gate(x), up(x))), in one call where its weights are panels of few bits."""

from jaxtyping import Float
from torch import Tensor

from gorae.kernels.backend import native_for
from gorae.kernels.experts.quantised import are_few_bits, gated_mlp_quantised
from gorae.kernels.linear import linear
from gorae.kernels.panels import Panels
from gorae.kernels.swiglu import swiglu
from gorae.kernels.weights import BlockScaled


def gated_mlp(
    x: Float[Tensor, "*rows D"],
    gate: Float[Tensor, "F D"] | BlockScaled | Panels,
    up: Float[Tensor, "F D"] | BlockScaled | Panels,
    down: Float[Tensor, "D F"] | BlockScaled | Panels,
) -> Float[Tensor, "*rows D"]:
    """What `linear` and `swiglu` give one after the other, to the bit."""
    if isinstance(gate, Panels) and isinstance(up, Panels) and isinstance(down, Panels):
        native = native_for(x)
        if native is not None and are_few_bits(gate, up, down):
            return gated_mlp_quantised(native, x, gate, up, down)
    return linear(swiglu(linear(x, gate), linear(x, up)), down)

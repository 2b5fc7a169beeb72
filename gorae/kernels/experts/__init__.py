"""The routed experts of one layer: each token through its chosen SwiGLU experts, summed in slot order."""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from gorae.kernels.experts.reference import expert_mlp_reference
from gorae.kernels.weights import Weight


def expert_mlp(
    x: Float[Tensor, "N D"],
    experts: Int[Tensor, "N A"],
    weights: Float[Tensor, "N A"],
    gate: Float[Tensor, "E F D"] | Sequence[Weight],
    up: Float[Tensor, "E F D"] | Sequence[Weight],
    down: Float[Tensor, "E D F"] | Sequence[Weight],
) -> Float[Tensor, "N D"]:
    """Σ over slots a of weights[n, a] · down(swiglu(gate(x), up(x))) of expert experts[n, a]; no token is dropped.

    The weights of the experts are stacked, or a sequence of E matrices held as `linear` takes them.
    """
    return expert_mlp_reference(x, experts, weights, gate, up, down)

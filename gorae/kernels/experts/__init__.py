"""The routed experts of one layer: each token through its chosen SwiGLU experts, summed in slot order."""

from jaxtyping import Float, Int
from torch import Tensor

from gorae.kernels.backend import native_for
from gorae.kernels.experts.cpu import expert_mlp_cpu
from gorae.kernels.experts.reference import expert_mlp_reference


def expert_mlp(
    x: Float[Tensor, "N D"],
    experts: Int[Tensor, "N A"],
    weights: Float[Tensor, "N A"],
    gate: Float[Tensor, "E F D"],
    up: Float[Tensor, "E F D"],
    down: Float[Tensor, "E D F"],
) -> Float[Tensor, "N D"]:
    """Σ over slots a of weights[n, a] · down(swiglu(gate(x), up(x))) of expert experts[n, a]; no token is dropped.

    Experts in bfloat16 give the bits of the same numbers in float32."""
    native = native_for(x, weights, weights=(gate, up, down))
    if native is None:
        return expert_mlp_reference(x, experts, weights, gate, up, down)
    return expert_mlp_cpu(native, x, experts, weights, gate, up, down)

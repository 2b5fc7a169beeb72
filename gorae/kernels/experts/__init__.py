"""The routed experts of one layer: each token through its chosen SwiGLU experts, summed in slot order."""

from jaxtyping import Float, Int
from torch import Tensor

from gorae.kernels.backend import native_for, wants_gradient
from gorae.kernels.experts.cpu import expert_mlp_cpu, shared_kind
from gorae.kernels.experts.quantised import are_few_bits, expert_mlp_quantised
from gorae.kernels.experts.reference import expert_mlp_reference
from gorae.kernels.weights import HeldExperts


def expert_mlp(
    x: Float[Tensor, "N D"],
    experts: Int[Tensor, "N A"],
    weights: Float[Tensor, "N A"],
    gate: Float[Tensor, "E F D"] | HeldExperts,
    up: Float[Tensor, "E F D"] | HeldExperts,
    down: Float[Tensor, "E D F"] | HeldExperts,
) -> Float[Tensor, "N D"]:
    """Σ over slots a of weights[n, a] · down(swiglu(gate(x), up(x))) of expert experts[n, a]; no token is dropped.

    The weights of the experts are stacked, or E matrices each held as `linear` takes it, with the same bits.
    """
    native = native_for(x, weights)
    if native is None:
        return expert_mlp_reference(x, experts, weights, gate, up, down)
    if isinstance(gate, HeldExperts) and isinstance(up, HeldExperts) and isinstance(down, HeldExperts):
        if are_few_bits(gate.panels, up.panels, down.panels):
            return expert_mlp_quantised(native, x, experts, weights, gate, up, down)
        if wants_gradient(x, weights):
            return expert_mlp_reference(x, experts, weights, gate, up, down)
    kind = shared_kind(gate, up, down)
    if kind is None:
        return expert_mlp_reference(x, experts, weights, gate, up, down)
    return expert_mlp_cpu(native, kind, x, experts, weights, gate, up, down)

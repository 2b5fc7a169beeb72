"""Which experts a token uses, and how much.

DeepSeek-V3 scores by sigmoid, with a bias only for the choice (arXiv 2412.19437, 2.1.2); V2 by softmax (2405.04434).
"""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from gorae.kernels.backend import native_for
from gorae.kernels.routing.cpu import Rule, route_cpu
from gorae.kernels.routing.reference import route_reference, weights_of


class Routing(NamedTuple):
    """The router's decision for N packed tokens."""

    scores_NE: Tensor  # affinities, before the bias
    experts_NA: Tensor  # chosen experts, best first
    weights_NA: Tensor  # what each chosen expert's output is multiplied by


def route(
    logits: Float[Tensor, "N E"],
    bias: Float[Tensor, " E"] | None,
    *,
    num_active: int,
    scores: str = "sigmoid",
    num_groups: int = 1,
    num_active_groups: int = 1,
    normalize: bool = True,
    scale: float = 1.0,
) -> Routing:
    """Choose `num_active` experts a token by score plus bias; weigh them by score alone, times `scale`.

    With groups, only the experts of the best `num_active_groups` groups can be chosen: by the sum of a group's two best
    biased scores for "sigmoid" `scores`, by its best score for "softmax". Equal scores go to the expert with the lower
    number. Published V2 code scales only what it does not normalise, and so does "softmax".
    """
    native = native_for(logits) if bias is None else native_for(logits, bias)
    if native is not None:
        is_softmax = scores == "softmax"
        kept_scale = 1.0 if is_softmax and normalize else scale
        rule = Rule(num_active, is_softmax, num_groups, num_active_groups, normalize, kept_scale)
        return Routing(*route_cpu(native, logits, bias, rule))
    return Routing(*route_reference(logits, bias, num_active, scores, num_groups, num_active_groups, normalize, scale))


def expert_weights(
    scores: Float[Tensor, "N E"],
    experts: Int[Tensor, "N A"],
    *,
    kind: str = "sigmoid",
    normalize: bool = True,
    scale: float = 1.0,
) -> Float[Tensor, "N A"]:
    """The weights that `route` gives experts of these scores, whoever chose them; `kind` is its `scores`."""
    return weights_of(scores, experts, kind, normalize, scale)


def expert_load(experts: Int[Tensor, "N A"], num_experts: int) -> Float[Tensor, " E"]:
    """How many of the choices fell on each expert."""
    return experts.flatten().bincount(minlength=num_experts).float()

"""The definition of routing in plain torch, on the door of `sigmoid`."""

import torch
from torch import Tensor

from gorae.kernels.sigmoid import sigmoid


def route_reference(
    logits_NE: Tensor,
    bias_E: Tensor | None,
    num_active: int,
    scores: str,
    num_groups: int,
    num_active_groups: int,
    normalize: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    is_softmax = scores == "softmax"
    scores_NE = logits_NE.softmax(-1) if is_softmax else sigmoid(logits_NE)
    with torch.no_grad():
        biased_NE = scores_NE if bias_E is None else scores_NE + bias_E
        if num_groups > 1:
            biased_NE = keep_best_groups(biased_NE, num_groups, num_active_groups, num_judged=1 if is_softmax else 2)
        experts_NA = first_largest(biased_NE, num_active)
    return scores_NE, experts_NA, weights_of(scores_NE, experts_NA, scores, normalize, scale)


def weights_of(scores_NE: Tensor, experts_NA: Tensor, scores: str, normalize: bool, scale: float) -> Tensor:
    """What chosen experts' outputs are multiplied by [N, A]."""
    weights_NA = scores_NE.gather(-1, experts_NA)
    if normalize:
        weights_NA = weights_NA / (weights_NA.sum(-1, keepdim=True) + 1e-20)
    return weights_NA if scores == "softmax" and normalize else weights_NA * scale


def keep_best_groups(biased_NE: Tensor, num_groups: int, num_active_groups: int, num_judged: int) -> Tensor:
    """Put minus infinity on every expert outside the groups with the largest sum of their `num_judged` best scores."""
    grouped = biased_NE.unflatten(-1, (num_groups, -1))
    best = grouped.topk(min(num_judged, grouped.shape[-1]), dim=-1).values.sum(-1)
    kept = torch.zeros_like(best, dtype=torch.bool).scatter(-1, first_largest(best, num_active_groups), True)
    return grouped.masked_fill(~kept[..., None], float("-inf")).flatten(-2)


def first_largest(values: Tensor, count: int) -> Tensor:
    """Indices of the `count` largest values, largest first, the lower index first among equals."""
    return values.argsort(dim=-1, descending=True, stable=True)[..., :count]

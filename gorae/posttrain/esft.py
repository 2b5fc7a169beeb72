"""Which experts a task uses: each layer's few that carry a given share of it (ESFT, arXiv 2407.01906, section 3.2)."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from gorae.kernels import Routing
from gorae.model import Network


def relevant_experts(
    network: Network, rows: Iterable[Sequence[int]], *, share: float, score: str = "gate"
) -> list[list[int]]:
    """For each layer with experts the fewest that have at least `share` together, in the order of their numbers."""
    return [fewest(shares_E, share) for shares_E in expert_shares(network, rows, score=score)]


@torch.no_grad()
def expert_shares(network: Network, rows: Iterable[Sequence[int]], *, score: str = "gate") -> Tensor:
    """Each expert's share [L, E] of the tokens of `rows`, in float64; a layer's add up to 1, and rows weigh the same.

    score: "gate" is of the weights with which the router mixes experts, "token" of the choices it makes. Raises
    ValueError for a network without experts, and without rows.
    """
    if not network.config.num_experts:
        raise ValueError("the network has num_experts=0, so there are none to choose; leave experts=0")
    totals = []
    for row in rows:
        routings = network(torch.tensor([list(row)], device=network.device)).routings
        totals.append(torch.stack([row_means(routing, score) for routing in routings]))
    if not totals:
        raise ValueError("there are no rows of the task to see its experts at work on; give at least one")
    total_LE = torch.stack(totals).sum(0).cpu()
    return total_LE / total_LE.sum(-1, keepdim=True)


def row_means(routing: Routing, score: str) -> Tensor:
    """What each expert [E] gets of a row's tokens, on average over them."""
    weights_NA = routing.weights_NA if score == "gate" else torch.ones_like(routing.weights_NA)
    given_E = weights_NA.new_zeros(routing.scores_NE.shape[-1], dtype=torch.float64)
    return given_E.index_add_(0, routing.experts_NA.flatten(), weights_NA.flatten().double()) / len(weights_NA)


def fewest(shares_E: Tensor, share: float) -> list[int]:
    """The smallest set with `share` of the whole, and at least one; of equal ones the first."""
    ordered_E, experts_E = shares_E.sort(descending=True, stable=True)
    reached_E = ordered_E.cumsum(0) >= share - 1e-9  # sums are rounded
    return sorted(experts_E[: int((~reached_E).sum()) + 1].tolist())

"""The ways that a sampler's tokens took through the experts: beside those of the trainer, or replayed by it.

Where the sampler's router decides otherwise, by rounding or by older weights, the trainer would differentiate other
experts than those that spoke. Routing replay (R3, arXiv 2510.11370) lets its tokens take the sampler's ways, experts
and their weights; the router still learns, by its own scores.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import pad

from gorae.engine import Routings
from gorae.kernels import Routing, expert_load
from gorae.model import Replay


def replay_of(rollouts: Sequence[Routings], num_tokens: int) -> list[Replay]:
    """The ways of rollouts as `Network` takes them for a pass over their rows [B, num_tokens], layer by layer.

    Padding goes its own way, and so does whatever follows what the engine was given. Raises ValueError for a rollout
    with more tokens than the pass.
    """
    longest = max(one.experts_LTA.shape[1] for one in rollouts)
    if longest > num_tokens:
        raise ValueError(
            f"a rollout's ways of {longest} tokens do not fit a pass of {num_tokens}; make the pass longer"
        )
    experts_LBTA, weights_LBTA = (
        torch.stack([pad(one, (0, 0, 0, num_tokens - one.shape[1]), value=fill) for one in kind], dim=1)
        for kind, fill in (([one.experts_LTA for one in rollouts], -1), ([one.weights_LTA for one in rollouts], 0.0))
    )
    return [
        Replay(experts_BTA.flatten(0, 1), weights_BTA.flatten(0, 1))
        for experts_BTA, weights_BTA in zip(experts_LBTA, weights_LBTA, strict=True)
    ]


def on_the_way(routings: Sequence[Routing], ways: Sequence[Replay]) -> list[Routing]:
    """Of a trainer's decisions those for tokens whose way is known: neither padding's nor a reply's last token's."""
    known = [way.experts_NA[:, 0] >= 0 for way in ways]
    return [
        Routing(*(kind.detach()[is_known_N] for kind in one)) for one, is_known_N in zip(routings, known, strict=True)
    ]


def flipped_share(routings: Sequence[Routing], ways: Sequence[Replay]) -> float:
    """The share of (token, layer) whose set of experts differs between trainer and sampler."""
    flips = [
        (one.experts_NA.sort(-1).values != way.experts_NA[way.experts_NA[:, 0] >= 0].sort(-1).values).any(-1)
        for one, way in zip(on_the_way(routings, ways), ways, strict=True)
    ]
    return torch.cat(flips).float().mean().item()


def dead_share(routings: Sequence[Routing]) -> float:
    """The share of (layer, expert) that none of these tokens went to."""
    loads = [expert_load(one.experts_NA, one.scores_NE.shape[-1]) for one in routings]
    return (torch.stack(loads) == 0).float().mean().item()

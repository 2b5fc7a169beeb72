"""Routing replay (R3, arXiv 2510.11370): the trainer's tokens take the ways that the sampler's tokens took.

Where the sampler's router decides otherwise, by rounding or by older weights, the trainer would differentiate other
experts than those that spoke. Experts and their weights are replayed; the router still learns, by its own scores.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import pad

from gorae.engine import Routings
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

"""Which experts each token went to, and with what weights, for a trainer that wants to take the same ways.

Nouns: Routings. A request that asks for them is read behind no known beginning, since what is known of a beginning is
keys and values alone; when it is read again, after a preemption or with new weights, they are noted anew.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gorae.engine.passage import Passage


class Routings(NamedTuple):
    """The routers' decisions: chosen experts, best first, in every routed layer (L, the first one first).

    T counts the prompt and the reply without its last token, which the network was never given.
    """

    experts_LTA: Tensor  # int32
    weights_LTA: Tensor  # float32


def of_rows(passage: Passage, rows: Sequence[int]) -> list[Routings]:
    """What the routers decided for the tokens of these rows of a pass."""
    shape = passage.features.hidden_BTD.shape[:2]
    experts, weights = zip(*((one.experts_NA, one.weights_NA) for one in passage.features.routings), strict=True)
    experts_LBTA = torch.stack(experts).unflatten(1, shape)
    weights_LBTA = torch.stack(weights).unflatten(1, shape)
    return [
        Routings(
            experts_LBTA[:, row, : passage.counts[row]].int().cpu(),
            weights_LBTA[:, row, : passage.counts[row]].clone().cpu(),
        )
        for row in rows
    ]


def joined(parts: Sequence[Routings]) -> Routings:
    """The decisions for consecutive parts of one sequence, as one."""
    return Routings(*(torch.cat(kind, dim=1) for kind in zip(*parts, strict=True)))

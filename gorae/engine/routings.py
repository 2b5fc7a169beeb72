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


def of_rows(passage: Passage, rows: Sequence[int]) -> list[Tensor]:
    """What the routers decided for the tokens of these rows of a pass [2, L, T, A]: experts, and the bits of weights.

    Copied once for all rows, and as one: a step of decoding has many rows of a single token.
    """
    num_rows, num_tokens = passage.features.hidden_BTD.shape[:2]
    experts, weights = zip(*((one.experts_NA, one.weights_NA) for one in passage.features.routings), strict=True)
    ways = torch.stack([torch.stack(experts).int(), torch.stack(weights).view(torch.int32)])
    ways = ways.cpu().unflatten(2, (num_rows, num_tokens))
    if list(rows) != list(range(num_rows)):  # of the others nothing is to stay in memory
        ways = ways[:, :, list(rows)]
    counts = [passage.counts[row] for row in rows]
    return [
        one if count == num_tokens else one[:, :, :count] for one, count in zip(ways.unbind(2), counts, strict=True)
    ]


def joined(parts: Sequence[Tensor]) -> Routings:
    """The decisions for consecutive parts of one sequence, as one."""
    experts_LTA, weights_LTA = torch.cat(list(parts), dim=2)
    return Routings(experts_LTA, weights_LTA.view(torch.float32))

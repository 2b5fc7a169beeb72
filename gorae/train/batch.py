"""What one update learns from: token rows, padded on the right, and how much each token counts as a target."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Token ids [B, T] and, for each, its weight as something to predict; padding and prompts weigh nothing."""

    token_ids_BT: Tensor
    weights_BT: Tensor

    @property
    def num_tokens(self) -> int:
        return self.token_ids_BT.numel()

    def to(self, device: torch.device) -> Self:
        """The same batch with all its tensors on a device."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: one.to(device) for name, one in held.items() if isinstance(one, Tensor)})

    @property
    def read_lengths(self) -> Tensor:
        """How many tokens of each row have to be read: all before the last one that carries weight."""
        is_target_BT = self.weights_BT[:, 1:] != 0
        return (is_target_BT * torch.arange(1, self.weights_BT.shape[1], device=is_target_BT.device)).amax(1)


def pad_batch(rows: Sequence[tuple[Sequence[int], Sequence[float]]], pad_id: int) -> Batch:
    """A batch from (token ids, weights) pairs of any lengths."""
    length = max(len(ids) for ids, _ in rows)
    token_ids = torch.full((len(rows), length), pad_id)
    weights = torch.zeros(len(rows), length)
    for row, (ids, row_weights) in enumerate(rows):
        token_ids[row, : len(ids)] = torch.tensor(ids)
        weights[row, : len(ids)] = torch.tensor(row_weights)
    return Batch(token_ids, weights)

"""Have the network's weights changed since they were last looked at? What was read with the old ones must be forgotten.

PyTorch counts the in-place changes of every tensor, those of an optimizer among them; only a change through `.data` or
of memory shared with something else goes uncounted. Whoever makes one has to say so.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightsWatch:
    """Remembers the tensors of a network and how often each has been changed."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.seen = self.look()

    def look(self) -> list[tuple[Tensor, int]]:
        return [(tensor, num_changes(tensor)) for tensor in (*self.network.parameters(), *self.network.buffers())]

    def has_changed(self) -> bool:
        """Whether a tensor seen before has been changed in place; costs a few microseconds, so every step may ask."""
        return any(num_changes(tensor) != before for tensor, before in self.seen)

    def has_been_replaced(self) -> bool:
        """Whether the network holds another tensor in the place of one seen before; walks through the network."""
        return [id(tensor) for tensor, _ in self.look()] != [id(tensor) for tensor, _ in self.seen]


def num_changes(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


@torch.no_grad()
def replace_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy `weights` into the network's tensors of those names. ValueError, and no copy, if one has no place."""
    held = dict(network.named_parameters()) | dict(network.named_buffers())
    for name, tensor in weights.items():
        if name not in held:
            raise ValueError(f"the network has no weight {name!r}; give names of its named_parameters() and buffers")
        if tensor.shape != held[name].shape:
            raise ValueError(f"{name} of shape {list(tensor.shape)} does not fit into {list(held[name].shape)}")
    for name, tensor in weights.items():
        held[name].copy_(tensor)

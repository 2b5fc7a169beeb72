"""Have the network's weights changed since they were last looked at? What was read with the old ones must be forgotten.

PyTorch counts the in-place changes of every tensor, those of an optimizer among them. It does not count a change
through `.data` or of memory shared with something else, and whole modules may be exchanged: whoever does so has to say.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightsWatch:
    """Remembers every weight's place in the network, its tensor, and how often that has been changed."""

    def __init__(self, network: nn.Module) -> None:
        self.seen = [
            (held, name, tensor, num_changes(tensor))
            for module in network.modules()
            for held in (module._parameters, module._buffers)
            for name, tensor in held.items()
            if tensor is not None
        ]

    def has_changed(self) -> bool:
        """Whether a tensor has been changed in place or replaced; takes microseconds, so that every step can ask."""
        return any(
            held.get(name) is not tensor or num_changes(tensor) != before for held, name, tensor, before in self.seen
        )


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

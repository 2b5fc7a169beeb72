"""A network's tensors to another device, in whatever form it holds them."""

from typing import Any

import torch
from torch import Tensor

from gorae.kernels import BlockScaled, HeldExperts, Panels
from gorae.model import Network


def place(network: Network, device: torch.device) -> None:
    """Move parameters, buffers, and what stands in the place of parameters, one after the other."""
    network.to(device)
    for module in network.modules():
        for attribute, held in vars(module).items():
            if isinstance(held, Tensor | BlockScaled | Panels | HeldExperts):
                setattr(module, attribute, placed(held, device))


def placed(held: Any, device: torch.device) -> Any:
    if isinstance(held, HeldExperts):
        return HeldExperts(placed(one, device) for one in held)
    if isinstance(held, Panels):
        return held._replace(packed=held.packed.to(device))
    if isinstance(held, BlockScaled):
        return BlockScaled(held.values.to(device), held.scales.to(device))
    return held.to(device)

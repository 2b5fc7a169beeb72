"""A network in memory as fast mode has it, its matrices in panels of 8 or 4 bits; and that again once it has learnt.

So the rollouts of a run can be a quantised engine's: the same bits as those of `gorae convert` and `load`, without a
file.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from gorae.checkpoint.convert_panels import InPanels
from gorae.checkpoint.convert_source import Source
from gorae.checkpoint.names import places
from gorae.checkpoint.quantised import panel_shapes, read_bits
from gorae.checkpoint.safetensors import Layout
from gorae.checkpoint.weights import held_at, hold
from gorae.kernels import Weight
from gorae.model import Network, tensors_held


@torch.no_grad()
def quantised(network: Network, to: str) -> Network:
    """A copy for fast mode alone, as `gorae convert --to` int8, int4 or mixed makes it, without MTP modules."""
    config = replace(network.config, num_mtp_modules=0)
    tensors = _Published(network)
    form = InPanels(Source(Path(to), tensors, {}, config), to)
    made = {
        one.name: one.tensor for name in tensors for one in form.converted(tensors, name, form.outputs(tensors, name))
    }
    with torch.device("meta"):
        copy = Network(config)
    panels = panel_shapes(copy, read_bits(form.config({})))
    copy.is_fast = True

    def read(published: str) -> Weight:
        return panels[published].of(made[published]) if published in panels else made[published].clone()

    hold(copy, read, read)
    return copy.eval()


@torch.no_grad()
def quantise_again(copy: Network, network: Network, to: str) -> None:
    """Make of a copy, in its place in memory, what `quantised` would make now; an engine over it has to be told."""
    for old, new in zip(copy.modules(), quantised(network, to).modules(), strict=True):
        for (_, held), (_, tensor) in zip(tensors_held(old), tensors_held(new), strict=True):
            held.copy_(tensor)


class _Published:
    """A network's tensors by their published names."""

    def __init__(self, network: Network) -> None:
        self._state = network.state_dict()
        self._places = places(replace(network.config, num_mtp_modules=0))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def layout(self, name: str) -> Layout:
        return Layout.of(self.tensor(name))

    def tensor(self, name: str) -> Tensor:
        return held_at(self._state, self._places[name])

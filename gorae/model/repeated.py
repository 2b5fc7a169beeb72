"""Passes over a cache that come again in one shape, as those of decoding do: recorded once, and then repeated."""

from typing import NamedTuple

import torch
from torch import Tensor, UntypedStorage

from gorae.kernels import Arena, Recording
from gorae.model.cache import Cache, Places
from gorae.model.network import Features, Network
from gorae.model.reading import tensors_held

MOST_BYTES = 128 << 20  # of what a pass computes on its way
MOST_PASSES = 64


class Shape(NamedTuple):
    """What a recording is bound to."""

    num_rows: int
    num_tokens: int
    table_width: int
    num_threads: int


class Pass(NamedTuple):
    """A recording, where what it reads has to be written, and where what it yields is to be found."""

    recording: Recording
    token_ids_BT: Tensor
    places: Places
    features: Features

    def again(self, token_ids_BT: Tensor, places: Places) -> Features:
        for held, new in zip((self.token_ids_BT, *self.places), (token_ids_BT, *places), strict=True):
            held.copy_(new)
        self.recording.repeat()
        return self.features


class RepeatedPasses:
    """A network over a bounded cache: bit for bit `network(token_ids_BT, cache, rows)`.

    Weights may change in place between passes; whoever replaces them makes these anew. Hooks of modules are not run.
    Only what runs on the CPU is recorded.
    """

    def __init__(self, network: Network, cache: Cache) -> None:
        self.network, self.cache = network, cache
        self.arena = Arena(MOST_BYTES)
        self.weights = places_of(network)
        self.met: set[Shape] = set()  # a shape may come but once, and a recording takes longer than a pass
        self.passes: dict[Shape, Pass | None] = {}  # the last repeated ones last; None for what can not be repeated

    def __call__(self, token_ids_BT: Tensor, rows: slice) -> Features:
        """The features of new tokens; what the routers decided is there until the next pass."""
        places = self.cache.places(rows, token_ids_BT.shape[1])
        num_rows, num_tokens = token_ids_BT.shape
        shape = Shape(num_rows, num_tokens, places.table_BM.shape[1], torch.get_num_threads())
        if shape not in self.met or self.cache.device.type != "cpu":
            self.met.add(shape)
            return self.run(token_ids_BT, places)
        if shape not in self.passes:
            return self.record(shape, token_ids_BT, places)
        held = self.passes[shape] = self.passes.pop(shape)
        if held is None:
            return self.run(token_ids_BT, places)
        hidden_BTD, routings = held.again(token_ids_BT, places)
        return Features(hidden_BTD.clone(), routings)

    def has_its_weights(self) -> bool:
        """Whether all weights of the network still lie where these passes read them."""
        return places_of(self.network).keys() == self.weights.keys()

    def record(self, shape: Shape, token_ids_BT: Tensor, places: Places) -> Features:
        token_ids_BT, places = token_ids_BT.clone(), Places._make(place.contiguous().clone() for place in places)
        with Recording(self.arena) as recording:
            features = self.run(token_ids_BT, places)
        self.passes[shape] = Pass(recording, token_ids_BT, places, features) if recording.is_whole else None
        if len(self.passes) > MOST_PASSES:
            del self.passes[next(iter(self.passes))]
        return Features(features.hidden_BTD.clone(), features.routings)

    def run(self, token_ids_BT: Tensor, places: Places) -> Features:
        return self.network.run_blocks(token_ids_BT, places.starts_B, self.cache.memories_at(places))


def places_of(network: Network) -> dict[int, UntypedStorage]:
    """Where the weights lie, and what keeps that memory for them."""
    held = (tensor for module in network.modules() for _, tensor in tensors_held(module))
    return {tensor.data_ptr(): tensor.untyped_storage() for tensor in held}

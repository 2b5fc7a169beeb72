"""The tensors of a checkpoint folder ↔ a network: safetensors, in one file or in several under an index.

Read, they become parameters in float32, or stay as they are stored, mapped, where the network is not to learn.

Reading judges every tensor by name, shape and type before any is loaded, and tells all that is wrong at once.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gorae.checkpoint.fp8 import (
    SCALES,
    are_powers_of_two,
    is_scales,
    mismatches,
    quantization_config,
    read_kept,
    read_widened,
)
from gorae.checkpoint.names import EMBEDDING, Place, copies, is_mtp, places
from gorae.checkpoint.safetensors import Layout, write_file
from gorae.checkpoint.shards import Shards, plan_shards, write_index
from gorae.config import ModelConfig
from gorae.kernels import BlockScaled, HeldExperts, Weight, bands
from gorae.model import Network

_READABLE = ("F32", "BF16", "F16", "F8_E4M3")


def write_weights(folder: Path, network: Network, *, max_shard_bytes: int) -> None:
    """Write the tensors under published names, tensor by tensor; MTP modules repeat the embedding and head they share.

    One model.safetensors if that is no larger than `max_shard_bytes`; otherwise several files and their index.
    """
    tensors: dict[str, Tensor] = {}
    for published, place in (places(network.config) | copies(network.config)).items():
        held = _held(network, place)
        if isinstance(held, BlockScaled):
            tensors |= {published: held.values, published + SCALES: held.scales}
        else:
            assert isinstance(held, Tensor), "panels are not written under published names"
            tensors[published] = held
    layouts = {published: Layout.of(tensor) for published, tensor in tensors.items()}
    plan = plan_shards({published: layout.num_bytes for published, layout in layouts.items()}, max_shard_bytes)
    for file_name, names in plan.items():
        write_file(
            folder / file_name, {name: layouts[name] for name in names}, ((name, tensors[name]) for name in names)
        )
    write_index(folder, plan, layouts)


def quantization(network: Network) -> dict[str, Any] | None:
    """What config.json has to say of a network that holds FP8; None for others."""
    held = (_held(network, place) for place in places(network.config).values())
    scales = [one.scales for one in held if isinstance(one, BlockScaled)]
    return quantization_config(powers_of_two=all(map(are_powers_of_two, scales))) if scales else None


def read_network(folder: Path, config: ModelConfig, *, keep: bool) -> Network:
    """Build the network of `config` with the tensors of `folder`, widened to float32 or, with `keep`, as stored.

    Raises ValueError for a file that is missing or cut short, and one naming every tensor that is missing, unknown,
    of another shape or of a type other than float32, bfloat16, float16 and FP8 with its scales, or is not where the
    index says.
    """
    with Shards(folder) as shards:
        network = fitting_network(config, shards)
        if keep:
            _hold(network, shards)
        else:
            _fill(network, lambda published: read_widened(shards, published))
        _require_equal_copies(network, shards)
    return network


def fitting_network(config: ModelConfig, shards: Shards) -> Network:
    """The network of `config`, without memory, that these tensors make; one without MTP modules if they have none.

    No tensor is read but the scales of FP8. Raises ValueError as `read_network` does.
    """
    if not any(is_mtp(published, config) for published in shards):
        # transformers keeps the key in config.json and drops the module
        config = replace(config, num_mtp_modules=0)
    with torch.device("meta"):
        network = Network(config)
    _require_fitting(config, network.state_dict(), shards)
    return network


def fill_network(config: ModelConfig, tensors: Mapping[str, Tensor]) -> Network:
    """Build the network of `config` with tensors under published names, asked for one at a time; others are left."""
    with torch.device("meta"):
        network = Network(config)
    _fill(network, tensors.__getitem__)
    return network


def _fill(network: Network, read: Callable[[str], Tensor]) -> None:
    """Give a network that has no memory yet some, and its tensors, read by published name one at a time."""
    state = network.to_empty(device="cpu").state_dict()
    for published, place in places(network.config).items():
        _at(state, place).copy_(read(published))


def _hold(network: Network, shards: Shards) -> None:
    """Put the tensors as they are stored in the place of a network's parameters, experts one by one."""
    kept: dict[str, Weight | HeldExperts] = {}
    for published, place in places(network.config).items():
        if place.name == EMBEDDING:
            kept[EMBEDDING] = read_widened(shards, published)  # no more than mapped, unless it is FP8
        elif place.expert is None:
            kept[place.name] = read_kept(shards, published)
        else:
            experts = kept.setdefault(place.name, HeldExperts())
            assert isinstance(experts, HeldExperts), f"{place.name} is stacked and whole"
            experts.append(read_kept(shards, published))
    for name, held in kept.items():
        owner, _, attribute = name.rpartition(".")
        module = network.get_submodule(owner)
        delattr(module, attribute)
        setattr(module, attribute, held)


def _held(network: Network, place: Place) -> Weight:
    held = attrgetter(place.name)(network)
    return held if place.expert is None else held[place.expert]


def _are_equal(left: Weight, right: Weight) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor) and left.dtype == right.dtype:
        return torch.equal(left, right)
    return torch.equal(torch.cat([*bands(left)]), torch.cat([*bands(right)]))


def _at(state: Mapping[str, Tensor], place: Place) -> Tensor:
    tensor = state[place.name]
    return tensor if place.expert is None else tensor[place.expert]


def _require_fitting(config: ModelConfig, state: Mapping[str, Tensor], shards: Shards) -> None:
    complaints = [*shards.complaints, *_misfits(config, state, shards)]
    if complaints:
        complaints = list(dict.fromkeys(complaints))  # the index and config.json may miss the same tensor
        raise ValueError(
            f"{shards.folder}: {len(complaints)} complaints about its tensors; take config.json, index and all files "
            "from one checkpoint\n  " + "\n  ".join(complaints)
        )


def _misfits(config: ModelConfig, state: Mapping[str, Tensor], shards: Shards) -> Iterator[str]:
    needed, optional = places(config), copies(config)
    yield from (f"missing: {published}" for published in needed if published not in shards)
    yield from mismatches(shards)
    for published in shards:
        if is_scales(shards, published):
            continue
        place = needed.get(published) or optional.get(published)
        if place is None:
            yield f"unknown: {published}"
            continue
        layout, expected = shards.layout(published), tuple(_at(state, place).shape)
        if layout.shape != expected:
            yield f"shape: {published} is {list(layout.shape)}, config.json makes it {list(expected)}"
        if layout.type_name not in _READABLE:
            yield f"type: {published} is {layout.type_name}; only {', '.join(_READABLE)} can be read"


def _require_equal_copies(network: Network, shards: Shards) -> None:
    different = [
        published
        for published, place in copies(network.config).items()
        if published in shards and not _are_equal(read_kept(shards, published), _held(network, place))
    ]
    if different:
        raise ValueError(
            f"{shards.folder}: {', '.join(different)} differ from the network's own embedding or head, which MTP "
            "modules share here; a checkpoint with separate ones can not be loaded"
        )

"""The tensors of a checkpoint folder ↔ a network: safetensors, in one file or in several under an index.

Read, they become parameters in float32, matrices in bfloat16 where that is asked for, or stay as they are stored,
panels too, mapped, where the network is not to learn.

Reading judges every tensor by name, shape and type before any is loaded, and tells all that is wrong at once.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gorae.checkpoint.absorbed import drop_expanded
from gorae.checkpoint.fp8 import (
    SCALES,
    are_powers_of_two,
    is_scales,
    mismatches,
    quantization_config,
    read_kept,
    read_widened,
)
from gorae.checkpoint.names import EMBEDDING, Place, copies, is_mtp, kind_of, places
from gorae.checkpoint.quantised import (
    PanelShape,
    Unpacked,
    are_absorbed,
    are_quantised,
    panel_shapes,
    panels_config,
    shapes_of,
)
from gorae.checkpoint.safetensors import Layout, write_file
from gorae.checkpoint.shards import Shards, plan_shards, write_index
from gorae.config import ModelConfig
from gorae.kernels import BlockScaled, HeldExperts, Panels, Weight, whole
from gorae.model import Network

_READABLE = ("F32", "BF16", "F16", "F8_E4M3")


def write_weights(folder: Path, network: Network, *, max_shard_bytes: int) -> None:
    """Write the tensors under published names, tensor by tensor; MTP modules repeat the embedding and head they share.

    One model.safetensors if that is no larger than `max_shard_bytes`; otherwise several files and their index. Of a
    network in panels nothing is repeated.
    """
    tensors: dict[str, Tensor] = {}
    for published, place in _written(network).items():
        held = _held(network, place)
        if isinstance(held, BlockScaled):
            tensors |= {published: held.values, published + SCALES: held.scales}
        else:
            tensors[published] = held.packed if isinstance(held, Panels) else held
    layouts = {published: Layout.of(tensor) for published, tensor in tensors.items()}
    plan = plan_shards({published: layout.num_bytes for published, layout in layouts.items()}, max_shard_bytes)
    for file_name, names in plan.items():
        write_file(
            folder / file_name, {name: layouts[name] for name in names}, ((name, tensors[name]) for name in names)
        )
    write_index(folder, plan, layouts)


def quantization(network: Network) -> dict[str, Any] | None:
    """What config.json has to say of a network that holds FP8 or panels; None for others.

    Raises ValueError for a network in fast mode whose checkpoint was not quantised: no format has its weights.
    """
    held = {published: _held(network, place) for published, place in _written(network).items()}
    bits = {kind_of(published): one.bits for published, one in held.items() if isinstance(one, Panels)}
    if network.is_fast and not are_quantised(bits):
        raise ValueError(
            "a network loaded with mode='fast' from weights that are not quantised can not be saved; load them with "
            "mode='exact' and save that, or make a quantised folder of them with gorae convert"
        )
    if bits:
        return panels_config(bits)
    scales = [one.scales for one in held.values() if isinstance(one, BlockScaled)]
    return quantization_config(powers_of_two=all(map(are_powers_of_two, scales))) if scales else None


def read_network(
    folder: Path,
    config: ModelConfig,
    *,
    bits: Mapping[str, int],
    keep: bool,
    matrices: torch.dtype = torch.float32,
) -> Network:
    """Build the network of `config` with the tensors of `folder`, widened to float32 or, with `keep`, as stored.

    Without `keep`, `matrices` are of that type, the others in float32.

    `bits` says which of them are panels. Raises ValueError for a file that is missing or cut short, and one naming
    every tensor that is missing, unknown, of another shape or of a type other than float32, bfloat16, float16, FP8 with
    its scales and the panels announced, or is not where the index says.
    """
    with Shards(folder) as shards:
        network = fitting_network(config, shards, bits)
        panels = panel_shapes(network, bits)
        if keep:
            network.is_fast = are_quantised(bits)
            hold(network, lambda published: _read_kept(shards, published, panels), partial(read_widened, shards))
        else:
            source = Unpacked(shards, panels, network.config) if panels else shards
            _fill(network, lambda published: read_widened(source, published), matrices)
        _require_equal_copies(network, shards, panels)
    return network


def fitting_network(config: ModelConfig, shards: Shards, bits: Mapping[str, int]) -> Network:
    """The network of `config`, without memory, that these tensors make; one without MTP modules if they have none.

    No tensor is read but the scales of FP8. Raises ValueError as `read_network` does.
    """
    if not any(is_mtp(published, config) for published in shards):
        # transformers keeps the key in config.json and drops the module
        config = replace(config, num_mtp_modules=0)
    with torch.device("meta"):
        network = Network(config)
    _require_fitting(network, shards, bits)
    return network


def fill_network(config: ModelConfig, tensors: Mapping[str, Tensor], matrices: torch.dtype = torch.float32) -> Network:
    """Build the network of `config` with tensors under published names, asked for one at a time; others are left."""
    with torch.device("meta"):
        network = Network(config)
    _fill(network, tensors.__getitem__, matrices)
    return network


def _written(network: Network) -> dict[str, Place]:
    """What a checkpoint of a network has, by published name; one in panels repeats nothing."""
    found = _places(network)
    is_repeated = not any(isinstance(_held(network, place), Panels) for place in found.values())
    return found | (copies(network.config) if is_repeated else {})


def _places(network: Network) -> dict[str, Place]:
    return places(network.config, absorbed=network.is_fast and network.config.latent_dim is not None)


def _fill(network: Network, read: Callable[[str], Tensor], matrices: torch.dtype) -> None:
    """Give a network that has no memory yet some, and its tensors, read by published name one at a time."""
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.to(matrices)
    state = network.to_empty(device="cpu").state_dict()
    for published, place in places(network.config).items():
        held_at(state, place).copy_(read(published))


def hold(network: Network, read: Callable[[str], Weight], read_embedding: Callable[[str], Weight]) -> None:
    """Put weights, read by published name, in the place of a network's parameters as they are, experts one by one."""
    kept: dict[str, Weight | HeldExperts] = {}
    for published, place in _places(network).items():
        if place.name == EMBEDDING:
            kept[EMBEDDING] = read_embedding(published)  # no more than mapped, unless it is FP8
        elif place.expert is None:
            kept[place.name] = read(published)
        else:
            experts = kept.setdefault(place.name, HeldExperts())
            assert isinstance(experts, HeldExperts), f"{place.name} is stacked and whole"
            experts.append(read(published))
    for name, held in kept.items():
        owner, _, attribute = name.rpartition(".")
        module = network.get_submodule(owner)
        if hasattr(module, attribute):
            delattr(module, attribute)
        setattr(module, attribute, held)
    if network.is_fast:
        drop_expanded(network)


def _read_kept(shards: Shards, published: str, panels: Mapping[str, PanelShape]) -> Weight:
    if published in panels:
        return panels[published].of(shards.tensor(published, keep=True))
    return read_kept(shards, published)


def _held(network: Network, place: Place) -> Weight:
    held = attrgetter(place.name)(network)
    return held if place.expert is None else held[place.expert]


def _are_equal(left: Weight, right: Weight) -> bool:
    """Whether the one read as the other is held is that."""
    if isinstance(left, Panels) and isinstance(right, Panels):
        return torch.equal(left.packed, right.packed)
    if isinstance(left, Tensor) and isinstance(right, Tensor) and left.dtype == right.dtype:
        return torch.equal(left, right)
    dtype = right.dtype if isinstance(right, Tensor) else torch.float32
    return torch.equal(whole(left, dtype), whole(right, dtype))


def held_at(state: Mapping[str, Tensor], place: Place) -> Tensor:
    tensor = state[place.name]
    return tensor if place.expert is None else tensor[place.expert]


def _require_fitting(network: Network, shards: Shards, bits: Mapping[str, int]) -> None:
    complaints = [*shards.complaints, *_misfits(network, shards, bits)]
    if complaints:
        complaints = list(dict.fromkeys(complaints))  # the index and config.json may miss the same tensor
        raise ValueError(
            f"{shards.folder}: {len(complaints)} complaint{'s' if len(complaints) > 1 else ''} about its tensors; take "
            "config.json, index and all files from one checkpoint\n  " + "\n  ".join(complaints)
        )


def _misfits(network: Network, shards: Shards, bits: Mapping[str, int]) -> Iterator[str]:
    absorbed = are_absorbed(bits, network.config)
    shapes, panels = shapes_of(network, absorbed=absorbed), panel_shapes(network, bits)
    needed = places(network.config, absorbed=absorbed)
    yield from (f"missing: {published}" for published in needed if published not in shards)
    yield from mismatches(shards)
    for published in shards:
        if is_scales(shards, published):
            continue
        if published not in shapes:
            yield f"unknown: {published}"
            continue
        layout = shards.layout(published)
        if published in panels:
            expected, readable, cause = panels[published].layout.shape, ("U8",), "config.json and its bits make"
        else:
            expected, readable, cause = shapes[published], _READABLE, "config.json makes"
        if layout.shape != expected:
            yield f"shape: {published} is {list(layout.shape)}, {cause} it {list(expected)}"
        if layout.type_name not in readable:
            yield f"type: {published} is {layout.type_name}; only {', '.join(readable)} can be read"


def _require_equal_copies(network: Network, shards: Shards, panels: Mapping[str, PanelShape]) -> None:
    different = [
        published
        for published, place in copies(network.config).items()
        if published in shards and not _are_equal(_read_kept(shards, published, panels), _held(network, place))
    ]
    if different:
        raise ValueError(
            f"{shards.folder}: {', '.join(different)} differ from the network's own embedding or head, which MTP "
            "modules share here; a checkpoint with separate ones can not be loaded"
        )

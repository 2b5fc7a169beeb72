"""Checkpoints whose matrices lie in the kernels' panels: U8 tensors under published names, used where they are mapped.

Nouns: `bits` says at how many bits a number the matrices of each kind lie, and is what config.json has to say; a
`PanelShape` is one matrix's. Embedding, router, norms and biases stay as they are.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gorae.checkpoint.absorbed import absorbed_shapes, expanded
from gorae.checkpoint.names import EMBEDDING, absorbed_names, copies, expanded_name, kind_of, places
from gorae.checkpoint.safetensors import Layout
from gorae.checkpoint.shards import Shards
from gorae.config import ModelConfig
from gorae.kernels import LAYOUT, PANEL, PANEL_BITS, Panels, panel_bytes, whole
from gorae.model import Absorbed, Network

METHOD = "gorae"

_PANELLED = ("attention", "absorbed", "dense", "experts", "shared experts", "mtp", "head")


class PanelShape(NamedTuple):
    """A matrix of a checkpoint: the bits of a number, and its shape [O, I]."""

    bits: int
    shape: tuple[int, int]

    @property
    def layout(self) -> Layout:
        num_outputs, num_inputs = self.shape
        return Layout(torch.uint8, (-(-num_outputs // PANEL), panel_bytes(num_inputs, self.bits)))

    @property
    def plain_dtype(self) -> torch.dtype:
        """The narrowest type that has its numbers exactly."""
        return torch.bfloat16 if self.bits == 16 else torch.float32

    def of(self, packed: Tensor) -> Panels:
        return Panels(packed, self.bits, torch.Size(self.shape))


def chosen_bits(to: str, *, has_experts: bool) -> dict[str, int]:
    """The bits of every kind of matrix for what `gorae convert --to` calls int4, int8, mixed or bf16-panels.

    mixed: what most of a network is, experts or, where there are none, feed-forwards, lies at 4 bits, and all else,
    which every token passes through, at 8. DeepSeek-V2-Lite's shape takes 4.94 bits a weight so, a bfloat16 embedding
    counted, 4.79 without it: llama.cpp calls 4.85 Q4_K_M.
    """
    if to == "mixed":
        return dict.fromkeys(_PANELLED, 8) | {"experts" if has_experts else "dense": 4}
    if to == "int4":
        return dict.fromkeys(_PANELLED, 4) | {"absorbed": 8, "head": 8}
    return dict.fromkeys(_PANELLED, {"int8": 8, "bf16-panels": 16}[to])


def panels_config(bits: Mapping[str, int]) -> dict[str, Any]:
    """What config.json says of a checkpoint in panels."""
    return {"quant_method": METHOD, "layout": LAYOUT, "bits": dict(sorted(bits.items()))}


def read_bits(published: Mapping[str, Any]) -> dict[str, int]:
    """The bits by kind that a config.json states; none where the checkpoint is not in panels.

    Raises ValueError for another version of the layout, and for what `quantization_config` does not write.
    """
    told = published.get("quantization_config") or {}
    if not isinstance(told, dict) or told.get("quant_method") != METHOD:
        return {}
    if unknown := sorted(told.keys() - {"quant_method", "layout", "bits"}):
        raise ValueError(f"quantization_config has {', '.join(unknown)}; take config.json from where the weights are")
    if told.get("layout") != LAYOUT:
        raise ValueError(
            f"quantization_config has layout={told.get('layout')!r} and this Gorae reads {LAYOUT}: use the version "
            "that wrote the checkpoint, or convert the original again"
        )
    bits = told.get("bits")
    is_table = isinstance(bits, dict) and bits.keys() <= set(_PANELLED)
    if not is_table or not bits or any(type(one) is not int or one not in PANEL_BITS for one in bits.values()):
        raise ValueError(
            f"quantization_config has bits={bits!r}, which must give {', '.join(map(str, PANEL_BITS))} for some of "
            f"{', '.join(_PANELLED)}; take config.json from where the weights are"
        )
    return bits


def are_quantised(bits: Mapping[str, int]) -> bool:
    """Whether some matrix is held in fewer than 16 bits: then only fast mode can use it."""
    return any(one < 16 for one in bits.values())


def told(bits: Mapping[str, int]) -> str:
    """The bits there are, in words."""
    return f"{' and '.join(map(str, sorted(set(bits.values()))))} bits"


def are_absorbed(bits: Mapping[str, int], config: ModelConfig) -> bool:
    """Whether the checkpoint has the two matrices of absorbed attention in place of kv_b_proj."""
    return config.latent_dim is not None and are_quantised(bits)


def bits_of(published: str, bits: Mapping[str, int]) -> int | None:
    """The bits of a tensor; None if it is not in panels."""
    return bits.get(kind_of(published)) if published.endswith(".weight") else None


def shapes_of(network: Network, *, absorbed: bool = False) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that a checkpoint of this network may have, by published name."""
    config, state = network.config, network.state_dict()
    shapes: dict[str, tuple[int, ...]] = {}
    for published, place in (places(config) | copies(config)).items():
        names = absorbed_names(published) if absorbed else None
        if names is None:
            held = state[place.name]
            shapes[published] = tuple(held.shape if place.expert is None else held.shape[1:])
        else:
            shapes |= zip(names, absorbed_shapes(config), strict=True)
    return shapes


def panel_shapes(network: Network, bits: Mapping[str, int]) -> dict[str, PanelShape]:
    """What every matrix that is in panels must be, by published name; a head that is the embedding is not."""
    tied = {published for published, place in copies(network.config).items() if place.name == EMBEDDING}
    shapes = shapes_of(network, absorbed=are_absorbed(bits, network.config))
    return {
        published: PanelShape(at, (shape[0], shape[1]))
        for published, shape in shapes.items()
        if (at := bits_of(published, bits)) is not None and published not in tied
    }


class Unpacked:
    """The tensors of a folder in panels as plain ones: float32, or bfloat16 where 16 bits hold it, and kv_b_proj whole.

    So whatever reads tensors by their published names reads these.
    """

    def __init__(self, shards: Shards, panels: Mapping[str, PanelShape], config: ModelConfig) -> None:
        self._shards, self._panels, self._config = shards, panels, config
        self._names = dict.fromkeys(map(expanded_name, shards))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def layout(self, name: str) -> Layout:
        parts = [self._layout(part) for part in self._parts(name)]
        if len(parts) == 1:
            return parts[0]
        num_inputs = parts[1].shape[1]
        return Layout(parts[1].dtype, (sum(math.prod(part.shape) for part in parts) // num_inputs, num_inputs))

    def tensor(self, name: str) -> Tensor:
        parts = [self._tensor(part) for part in self._parts(name)]
        return parts[0] if len(parts) == 1 else expanded(Absorbed(*parts), self._config)

    def _parts(self, name: str) -> tuple[str, ...]:
        return (name,) if name in self._shards else absorbed_names(name) or (name,)

    def _layout(self, name: str) -> Layout:
        if name not in self._panels:
            return self._shards.layout(name)
        return Layout(self._panels[name].plain_dtype, self._panels[name].shape)

    def _tensor(self, name: str) -> Tensor:
        tensor = self._shards.tensor(name)
        if name not in self._panels:
            return tensor
        panel_shape = self._panels[name]
        return whole(panel_shape.of(tensor), panel_shape.plain_dtype)

"""Matrices of a checkpoint into the kernels' panels: `gorae convert --to int4`, `int8`, `mixed` and `bf16-panels`."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from gorae.checkpoint.absorbed import absorbed_shapes
from gorae.checkpoint.convert_formats import Made, error_of, plain
from gorae.checkpoint.convert_source import Source
from gorae.checkpoint.fp8 import read_widened
from gorae.checkpoint.names import EMBEDDING, absorbed_names, copies, kind_of, places
from gorae.checkpoint.quantised import (
    PanelShape,
    are_absorbed,
    are_quantised,
    bits_of,
    chosen_bits,
    panels_config,
    told,
)
from gorae.checkpoint.safetensors import Layout
from gorae.checkpoint.shards import Tensors
from gorae.kernels import pack
from gorae.model import absorbed_matrices


class InPanels:
    """Every matrix at the bits chosen for its kind; the embedding in bfloat16; what routes and normalises exactly.

    Where matrices are quantised, kv_b_proj becomes the two of absorbed attention, and what is left is float32, as the
    kernels take it. What MTP modules repeat is left out. A source that is quantised already is a ValueError.
    """

    def __init__(self, source: Source, to: str) -> None:
        if are_quantised(source.bits):
            raise ValueError(
                f"{source.path} is quantised to {told(source.bits)} already, which would add error to error; convert "
                "what it was made from"
            )
        self._config = source.config
        chosen = chosen_bits(to, has_experts=source.config.num_experts > 0)
        self._are_quantised, self._is_absorbed = are_quantised(chosen), are_absorbed(chosen, source.config)
        names = [name for published in places(source.config) for name in self._names(published)]
        kinds = {kind_of(name) for name in names if bits_of(name, chosen) is not None}
        self._bits = {kind: bits for kind, bits in chosen.items() if kind in kinds}
        self._embeddings = {published for published, place in places(source.config).items() if place.name == EMBEDDING}
        self._repeated = copies(source.config)

    def outputs(self, source: Tensors, name: str) -> dict[str, Layout]:
        if name in self._repeated:
            return {}
        shapes = absorbed_shapes(self._config) if self._is_split(name) else (source.layout(name).shape,)
        return {
            new: self._layout(new, shape, source.layout(name).dtype)
            for new, shape in zip(self._names(name), shapes, strict=True)
        }

    def converted(self, source: Tensors, name: str, layouts: Mapping[str, Layout]) -> Iterable[Made]:
        if all(bits_of(new, self._bits) is None for new in layouts):
            for new in layouts:
                yield Made(new, plain(source, new, layouts[new].dtype))
            return
        weight = read_widened(source, name)
        parts = absorbed_matrices(weight, self._config) if self._is_split(name) else (weight,)
        for new, part in zip(layouts, parts, strict=True):
            bits = bits_of(new, self._bits)
            assert bits is not None, f"{new} is half of what is in panels"
            try:
                panels = pack(part, bits)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            yield Made(new, panels.packed, error_of(part, panels))

    def config(self, published: Mapping[str, Any]) -> dict[str, Any]:
        return {**published, "quantization_config": panels_config(self._bits)}

    def _is_split(self, name: str) -> bool:
        return self._is_absorbed and absorbed_names(name) is not None

    def _names(self, name: str) -> tuple[str, ...]:
        return (absorbed_names(name) if self._is_absorbed else None) or (name,)

    def _layout(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Layout:
        bits = bits_of(name, self._bits)
        if bits is not None:
            return PanelShape(bits, (shape[0], shape[1])).layout
        if name in self._embeddings:
            return Layout(torch.bfloat16, shape)
        return Layout(torch.float32 if self._are_quantised else dtype, shape)

"""What the weights of a folder may become: for every tensor of the source its outputs, their layouts first.

Layouts follow from the source's headers, so that a file is planned before any of its tensors is read. Panels, the
quantised formats, are in convert_panels.py.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from gorae.checkpoint.convert_record import ConversionError
from gorae.checkpoint.convert_source import Source
from gorae.checkpoint.fp8 import (
    POWERS_OF_TWO,
    SCALES,
    is_scales,
    quantization_config,
    quantize,
    read_widened,
    scales_shape,
)
from gorae.checkpoint.names import is_kept_exact, is_projection
from gorae.checkpoint.safetensors import Layout
from gorae.checkpoint.shards import Tensors
from gorae.kernels import BlockScaled, Weight, bands

_DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}
_WORDS = {"bf16": "bfloat16", "f32": "float32"}  # as config.json writes them
_BAND_ROWS = 128


class Made(NamedTuple):
    """A tensor of the target, and what quantising it cost."""

    name: str
    tensor: Tensor
    error: ConversionError | None = None


class Format(Protocol):
    """One of them; none is written whose `outputs` are empty."""

    def outputs(self, source: Tensors, name: str) -> dict[str, Layout]:
        """What a tensor of the source becomes, by name."""
        ...

    def converted(self, source: Tensors, name: str, layouts: Mapping[str, Layout]) -> Iterable[Made]:
        """The tensors of those layouts."""
        ...

    def config(self, published: Mapping[str, Any]) -> dict[str, Any]:
        """The config.json of the target, from that of the source."""
        ...


class Floats:
    """bfloat16 (`to` is bf16) or float32 (f32), router biases kept as they are in bf16."""

    def __init__(self, to: str) -> None:
        self._to = to

    def outputs(self, source: Tensors, name: str) -> dict[str, Layout]:
        layout = source.layout(name)
        is_kept = self._to == "bf16" and is_kept_exact(name)
        return {name: layout if is_kept else Layout(_DTYPES[self._to], layout.shape)}

    def converted(self, source: Tensors, name: str, layouts: Mapping[str, Layout]) -> Iterable[Made]:
        yield Made(name, plain(source, name, layouts[name].dtype))

    def config(self, published: Mapping[str, Any]) -> dict[str, Any]:
        config = {key: value for key, value in published.items() if key != "quantization_config"}
        for key in [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]:
            config[key] = _WORDS[self._to]
        return config


class Fp8:
    """DeepSeek's FP8 for the projections of attention and feed-forwards; all else is copied, FP8 among it.

    `powers_of_two` restricts the scales, which can not be done to a source in FP8 with others: a ValueError.
    """

    def __init__(self, source: Source, *, powers_of_two: bool) -> None:
        self._powers_of_two = powers_of_two
        self._quantises = not any(is_scales(source.tensors, name) for name in source.tensors)
        quantization = source.published.get("quantization_config") or {}
        if powers_of_two and not self._quantises and quantization.get("scale_fmt") != POWERS_OF_TWO:
            raise ValueError(
                f"{source.path} is in FP8 already, which is copied as it is; for scales that are powers of two "
                "convert it to bf16 first"
            )

    def outputs(self, source: Tensors, name: str) -> dict[str, Layout]:
        layout = source.layout(name)
        if name + SCALES in source:
            return {name: layout, name + SCALES: source.layout(name + SCALES)}
        if not self._quantises or not is_projection(name):
            return {name: layout}
        return {
            name: Layout(torch.float8_e4m3fn, layout.shape),
            name + SCALES: Layout(torch.float32, scales_shape(layout.shape)),
        }

    def converted(self, source: Tensors, name: str, layouts: Mapping[str, Layout]) -> Iterable[Made]:
        if name + SCALES not in layouts:
            yield Made(name, plain(source, name, layouts[name].dtype))
        elif name + SCALES in source:
            _require_finite(read_widened(source, name), name)
            yield from (Made(copied, source.tensor(copied)) for copied in layouts)
        else:
            weight = source.tensor(name)
            held = BlockScaled(*quantize(weight, name, powers_of_two=self._powers_of_two))
            yield Made(name, held.values, error_of(weight, held))
            yield Made(name + SCALES, held.scales)

    def config(self, published: Mapping[str, Any]) -> dict[str, Any]:
        new = quantization_config(powers_of_two=self._powers_of_two)
        told = None if self._quantises else published.get("quantization_config")
        return {**published, "quantization_config": told or new}


def plain(source: Tensors, name: str, dtype: torch.dtype) -> Tensor:
    """A tensor of a source as numbers of a type. Raises ValueError if one is not finite."""
    tensor = read_widened(source, name).to(dtype)
    _require_finite(tensor, name)
    return tensor


def error_of(weight: Tensor, held: Weight) -> ConversionError:
    """How far what a weight is held as is from it."""
    squared_error = squared_size = 0.0
    begin = 0
    for band in bands(held):
        exact = weight[begin : begin + len(band)].float()
        squared_size += _squared_sum(exact)
        squared_error += _squared_sum(band - exact)
        begin += len(band)
    error = ConversionError(1, squared_error, squared_size)
    error.largest = error.relative
    return error


def _squared_sum(tensor: Tensor) -> float:
    """In float64, which a few rows at a time become: the copy stays small."""
    return sum(torch.linalg.vector_norm(rows, dtype=torch.float64).item() ** 2 for rows in tensor.split(_BAND_ROWS))


def _require_finite(tensor: Tensor, name: str) -> None:
    if not all(rows.isfinite().all() for rows in tensor.split(_BAND_ROWS)):
        raise ValueError(f"{name} has elements that are not finite numbers; download the source again, or mend it")

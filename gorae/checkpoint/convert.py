"""A checkpoint to a folder with its weights as FP8, bfloat16 or float32: tensor by tensor, building no network.

Every layout follows from the source's headers, so each file is written as a stream, under another name beside the
target and with a record of the files that are finished: the same command goes on where a killed one stopped.
"""

import json
from collections import ChainMap
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gorae.checkpoint.convert_record import (
    ConversionError,
    Record,
    add_errors,
    recorded,
    remove_record,
    require_new,
)
from gorae.checkpoint.convert_source import Source, opened
from gorae.checkpoint.folder import flush
from gorae.checkpoint.fp8 import (
    POWERS_OF_TWO,
    SCALES,
    is_scales,
    quantization_config,
    quantize,
    read_widened,
    scales_shape,
    widen,
)
from gorae.checkpoint.names import is_kept_exact, is_projection, kind_of
from gorae.checkpoint.safetensors import Layout, TensorFile, write_file
from gorae.checkpoint.shards import MAX_SHARD_BYTES, Tensors, plan_shards, write_index
from gorae.observe import Progress, log, progress

WeightType = Literal["fp8", "bf16", "f32"]

_DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}
_WORDS = {"bf16": "bfloat16", "f32": "float32"}  # as config.json writes them
_BAND_ROWS = 128


def convert(
    source: str | PathLike[str],
    target: str | PathLike[str],
    to: WeightType,
    *,
    powers_of_two: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> dict[str, ConversionError]:
    """Write a folder or a GGUF file as the new folder `target` with its weights as `to`; return errors by kind.

    `fp8` quantises the projections of attention and feed-forwards and copies all else, tensors that are in FP8 already
    among it; `powers_of_two` restricts the scales. Errors are of what was quantised, so there are none otherwise.
    Raises ValueError for a source that is not whole and a target that exists, OSError if the disk is full; the source
    is never written to, and finished files wait for the same call to go on.
    """
    source, target = Path(source).resolve(), Path(target).resolve()
    require_new(source, target)
    with opened(source) as checkpoint:
        tensors, config = checkpoint.tensors, checkpoint.published
        _require_convertible(checkpoint, to, powers_of_two=powers_of_two)
        quantizes = to == "fp8" and not _is_fp8(tensors)
        outputs = {
            name: _outputs(tensors, name, to, quantizes=quantizes) for name in tensors if not is_scales(tensors, name)
        }
        options = {"to": to, "powers_of_two": powers_of_two, "max_shard_bytes": max_shard_bytes}
        with recorded(source, target, options) as record:
            _write_shards(tensors, outputs, record, max_shard_bytes, powers_of_two=powers_of_two)
            checkpoint.write_others(record.folder)
            _write_config(record.folder, _converted_config(config, to, powers_of_two=powers_of_two))
            for path in (*record.folder.iterdir(), record.folder):
                flush(path)
            record.folder.rename(target)
    remove_record(target)
    flush(target.parent)
    return record.errors()


def _write_shards(
    source: Tensors,
    outputs: Mapping[str, dict[str, Layout]],
    record: Record,
    max_shard_bytes: int,
    *,
    powers_of_two: bool,
) -> None:
    sizes = {name: sum(layout.num_bytes for layout in layouts.values()) for name, layouts in outputs.items()}
    plan = plan_shards(sizes, max_shard_bytes)
    layouts_of = {
        file_name: {name: layout for taken in names for name, layout in outputs[taken].items()}
        for file_name, names in plan.items()
    }
    left = [file_name for file_name in plan if not _is_finished(record, file_name, layouts_of[file_name])]
    record.require_space(sum(sizes[name] for file_name in left for name in plan[file_name]))
    done = len(outputs) - sum(len(plan[file_name]) for file_name in left)
    if len(left) < len(plan):
        log(f"{len(plan) - len(left)} of {len(plan)} files are there from an earlier attempt")
    with progress("convert", len(outputs), done=done, unit="tensor") as job:
        for file_name in left:
            errors: dict[str, ConversionError] = {}
            tensors = _converted(
                source, {name: outputs[name] for name in plan[file_name]}, errors, job, powers_of_two=powers_of_two
            )
            unfinished = record.folder / f"{file_name}.partial"
            write_file(unfinished, layouts_of[file_name], tensors)
            flush(unfinished)
            unfinished.replace(record.folder / file_name)
            record.finish(file_name, errors)
    names_of = {file_name: list(layouts) for file_name, layouts in layouts_of.items()}
    write_index(record.folder, names_of, dict(ChainMap(*layouts_of.values())))


def _is_finished(record: Record, file_name: str, layouts: Mapping[str, Layout]) -> bool:
    """Whether a file is on record, and by its header still holds what it should."""
    if file_name not in record or not (record.folder / file_name).is_file():
        return False
    try:
        with TensorFile(record.folder / file_name) as file:
            return {name: entry.layout for name, entry in file.entries.items()} == layouts
    except ValueError:  # it was broken since, and is written again
        return False


def _converted(
    source: Tensors,
    outputs: Mapping[str, dict[str, Layout]],
    errors: dict[str, ConversionError],
    job: Progress,
    *,
    powers_of_two: bool,
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one file as they become what `outputs` says, counting errors and progress on the way."""
    for name, layouts in outputs.items():
        scales_name = name + SCALES
        if scales_name not in layouts:
            tensor = read_widened(source, name).to(layouts[name].dtype)
            _require_finite(tensor, name)
            yield name, tensor
        elif scales_name in source:
            _require_finite(read_widened(source, name), name)
            yield from ((copied, source.tensor(copied)) for copied in layouts)
        else:
            weight = source.tensor(name)
            values, scales = quantize(weight, name, powers_of_two=powers_of_two)
            add_errors(errors, {kind_of(name): _error(weight, values, scales, name)})
            yield name, values
            yield scales_name, scales
        job.advance()


def _outputs(source: Tensors, name: str, to: WeightType, *, quantizes: bool) -> dict[str, Layout]:
    """What a tensor of the source becomes, by name."""
    layout = source.layout(name)
    if name + SCALES in source and to == "fp8":
        return {name: layout, name + SCALES: source.layout(name + SCALES)}
    if to == "fp8":
        if not quantizes or not is_projection(name):
            return {name: layout}
        return {
            name: Layout(torch.float8_e4m3fn, layout.shape),
            name + SCALES: Layout(torch.float32, scales_shape(layout.shape)),
        }
    return {name: layout if to == "bf16" and is_kept_exact(name) else Layout(_DTYPES[to], layout.shape)}


def _require_finite(tensor: Tensor, name: str) -> None:
    if not all(rows.isfinite().all() for rows in tensor.split(_BAND_ROWS)):
        raise ValueError(f"{name} has elements that are not finite numbers; download the source again, or mend it")


def _error(weight: Tensor, values: Tensor, scales: Tensor, name: str) -> ConversionError:
    exact = weight.float()
    squared_size = _squared_sum(exact)
    squared_error = _squared_sum(widen(values, scales, name).sub_(exact))
    error = ConversionError(1, squared_error, squared_size)
    error.largest = error.relative
    return error


def _squared_sum(tensor: Tensor) -> float:
    """In float64, which a few rows at a time become: the copy stays small."""
    return sum(torch.linalg.vector_norm(rows, dtype=torch.float64).item() ** 2 for rows in tensor.split(_BAND_ROWS))


def _is_fp8(source: Tensors) -> bool:
    return any(is_scales(source, name) for name in source)


def _require_convertible(source: Source, to: WeightType, *, powers_of_two: bool) -> None:
    if to == "fp8" and _is_fp8(source.tensors):
        quantization = source.published.get("quantization_config") or {}
        if powers_of_two and quantization.get("scale_fmt") != POWERS_OF_TWO:
            raise ValueError(
                f"{source.path} is in FP8 already, which is copied as it is; for scales that are powers of two "
                "convert it to bf16 first"
            )


def _converted_config(config: dict[str, Any], to: WeightType, *, powers_of_two: bool) -> dict[str, Any]:
    config = dict(config)
    if to == "fp8":
        new = quantization_config(powers_of_two=powers_of_two)
        config["quantization_config"] = config.get("quantization_config") or new
        return config
    config.pop("quantization_config", None)
    for key in [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]:
        config[key] = _WORDS[to]
    return config


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

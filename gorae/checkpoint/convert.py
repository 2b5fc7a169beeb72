"""A checkpoint to a folder with its weights in panels, FP8, bfloat16 or float32: tensor by tensor, without a network.

Every layout follows from the source's headers, so each file is written as a stream, under another name beside the
target and with a record of the files that are finished: the same command goes on where a killed one stopped.
"""

import json
from collections import ChainMap
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from gorae.checkpoint.convert_formats import Floats, Format, Fp8
from gorae.checkpoint.convert_panels import InPanels
from gorae.checkpoint.convert_record import ConversionError, Record, add_errors, recorded, remove_record, require_new
from gorae.checkpoint.convert_source import Source, opened
from gorae.checkpoint.folder import flush
from gorae.checkpoint.fp8 import is_scales
from gorae.checkpoint.names import kind_of, places
from gorae.checkpoint.safetensors import Layout, TensorFile, write_file
from gorae.checkpoint.shards import MAX_SHARD_BYTES, Tensors, plan_shards, write_index
from gorae.observe import Progress, log, progress

WeightType = Literal["mixed", "int4", "int8", "bf16-panels", "fp8", "bf16", "f32"]


def convert(
    source: str | PathLike[str],
    target: str | PathLike[str],
    to: WeightType,
    *,
    powers_of_two: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> dict[str, ConversionError]:
    """Write a folder or a GGUF file as the new folder `target` with its weights as `to`; return errors by kind.

    `mixed`, `int4` and `int8` are what fast mode computes with (see `chosen_bits`), `bf16-panels` is bfloat16 in the
    order of the kernels. `fp8` quantises the projections of attention and feed-forwards and copies all else, tensors
    that are in FP8 already among it; `powers_of_two` restricts the scales. Errors are of what was quantised.
    Raises ValueError for a source that is not whole and a target that exists, OSError if the disk is full; the source
    is never written to, and finished files wait for the same call to go on.
    """
    source, target = Path(source).resolve(), Path(target).resolve()
    require_new(source, target)
    with opened(source) as checkpoint:
        tensors, form = checkpoint.tensors, _format(checkpoint, to, powers_of_two=powers_of_two)
        outputs = {name: form.outputs(tensors, name) for name in _in_order(checkpoint)}
        config = form.config(checkpoint.published)
        options = {"to": to, "quantization": config.get("quantization_config"), "max_shard_bytes": max_shard_bytes}
        with recorded(source, target, options) as record:
            _write_shards(
                form, tensors, {name: made for name, made in outputs.items() if made}, record, max_shard_bytes
            )
            checkpoint.write_others(record.folder)
            _write_config(record.folder, config)
            for path in (*record.folder.iterdir(), record.folder):
                flush(path)
            record.folder.rename(target)
    remove_record(target)
    flush(target.parent)
    return record.errors()


def _in_order(source: Source) -> list[str]:
    """The tensors of a source in the order in which the network uses them, scales left out."""
    names = dict.fromkeys(name for name in source.tensors if not is_scales(source.tensors, name))
    return [name for name in dict.fromkeys((*places(source.config), *names)) if name in names]


def _write_shards(
    form: Format,
    source: Tensors,
    outputs: Mapping[str, dict[str, Layout]],
    record: Record,
    max_shard_bytes: int,
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
            tensors = _converted(form, source, {name: outputs[name] for name in plan[file_name]}, errors, job)
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
    form: Format,
    source: Tensors,
    outputs: Mapping[str, dict[str, Layout]],
    errors: dict[str, ConversionError],
    job: Progress,
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one file as they become what `outputs` says, counting errors and progress on the way."""
    for name, layouts in outputs.items():
        for made in form.converted(source, name, layouts):
            if made.error is not None:
                add_errors(errors, {kind_of(made.name): made.error})
            yield made.name, made.tensor
        job.advance()


def _format(source: Source, to: WeightType, *, powers_of_two: bool) -> Format:
    if to == "fp8":
        return Fp8(source, powers_of_two=powers_of_two)
    return Floats(to) if to in ("bf16", "f32") else InPanels(source, to)


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

"""A checkpoint folder to another type of weights: FP8, bfloat16 or float32, tensor by tensor, building no network.

Every layout follows from the source's headers, so each file is written as a stream, under another name beside the
target and with a record of the files that are finished: the same command goes on where a killed one stopped.
"""

import json
import math
import shutil
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gorae.checkpoint.folder import flush, locked
from gorae.checkpoint.fp8 import (
    BLOCK,
    POWERS_OF_TWO,
    SCALES,
    is_scales,
    mismatches,
    quantization_config,
    quantize,
    read_widened,
    scales_shape,
    widen,
)
from gorae.checkpoint.kinds import is_kept_exact, is_projection, kind_of
from gorae.checkpoint.safetensors import Layout, TensorFile, write_file
from gorae.checkpoint.shards import MAX_SHARD_BYTES, Shards, plan_shards, read_published, write_index
from gorae.observe import Progress, log, progress, replace_text

WeightType = Literal["fp8", "bf16", "f32"]

_DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}
_WORDS = {"bf16": "bfloat16", "f32": "float32"}  # as config.json writes them
_NUMBERS = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn)
_COPIED = {".json", ".jinja", ".txt", ".md", ".model", ".py"}  # what else a checkpoint folder has that is small
_RECORD, _LOCK = "conversion.json", "conversion.lock"


@dataclass
class ConversionError:
    """How far the quantised tensors of one kind are from the original."""

    tensors: int = 0
    squared_error: float = 0.0
    squared_size: float = 0.0
    largest: float = 0.0  # relative error of the worst tensor

    @property
    def relative(self) -> float:
        """Root of squared error over squared size."""
        return math.sqrt(self.squared_error / self.squared_size) if self.squared_size else 0.0

    def add(self, other: "ConversionError") -> None:
        self.tensors += other.tensors
        self.squared_error += other.squared_error
        self.squared_size += other.squared_size
        self.largest = max(self.largest, other.largest)


def convert(
    source: str | PathLike[str],
    target: str | PathLike[str],
    to: WeightType,
    *,
    powers_of_two: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> dict[str, ConversionError]:
    """Write the checkpoint in `source` to the new folder `target` with its weights as `to`; return errors by kind.

    `fp8` quantises the projections of attention and feed-forwards and copies all else, tensors that are in FP8 already
    among it; `powers_of_two` restricts the scales. Errors are of what was quantised, so there are none otherwise.
    Raises ValueError for a source that is not whole and a target that exists, OSError if the disk is full; the source
    is never written to, and finished files wait for the same call to go on.
    """
    source, target = Path(source).resolve(), Path(target).resolve()
    _require_new(source, target)
    with Shards(source) as shards:
        config = read_published(source)
        _require_convertible(shards, config, to, powers_of_two=powers_of_two)
        quantizes = to == "fp8" and not _is_fp8(shards)
        outputs = {
            name: _outputs(shards, name, to, quantizes=quantizes) for name in shards if not is_scales(shards, name)
        }
        partial = target.with_name(f".{target.name}.converting")
        partial.mkdir(parents=True, exist_ok=True)
        options = {"to": to, "powers_of_two": powers_of_two, "max_shard_bytes": max_shard_bytes}
        with locked(partial / _LOCK, "wait for it, or give another target"):
            record = _Record.open(partial, {"source": str(source), "files": _fingerprint(source), **options})
            try:
                _write_shards(shards, outputs, record, max_shard_bytes, powers_of_two=powers_of_two)
                _write_others(source, partial, _converted_config(config, to, powers_of_two=powers_of_two))
            except OSError as error:
                raise OSError(f"{error}; {_what_to_do(source, partial)}") from error
            except KeyboardInterrupt:
                log(f"interrupted; {_what_to_do(source, partial)}")
                raise
            partial.rename(target)
    for name in (_RECORD, _LOCK):
        (target / name).unlink()
    flush(target.parent)
    return record.errors()


class _Record:
    """Which files of an unfinished conversion are finished, with the errors in each."""

    def __init__(self, folder: Path, request: dict[str, Any], finished: dict[str, dict[str, ConversionError]]) -> None:
        self.folder, self._request, self._finished = folder, request, finished

    @classmethod
    def open(cls, folder: Path, request: dict[str, Any]) -> "_Record":
        """Go on with what `folder` has of the same request, or empty it."""
        path = folder / _RECORD
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if kept.get("request") == request:
            errors = {
                file_name: {kind: ConversionError(**values) for kind, values in by_kind.items()}
                for file_name, by_kind in kept["finished"].items()
            }
            return cls(folder, request, errors)
        if kept:
            log(f"{folder} is of another conversion or of a source that has changed since; beginning anew")
        for left in folder.iterdir():
            if left.name != _LOCK:
                left.unlink()
        record = cls(folder, request, {})
        record._save()
        return record

    def has(self, file_name: str, layouts: Mapping[str, Layout]) -> bool:
        """Whether a file is finished, and by its header still holds what it should."""
        if file_name not in self._finished or not (self.folder / file_name).is_file():
            return False
        try:
            with TensorFile(self.folder / file_name) as file:
                return {name: entry.layout for name, entry in file.entries.items()} == layouts
        except ValueError:  # it was broken since, and is written again
            return False

    def finish(self, file_name: str, errors: dict[str, ConversionError]) -> None:
        self._finished[file_name] = errors
        self._save()

    def errors(self) -> dict[str, ConversionError]:
        """The errors of all files, by kind."""
        total: dict[str, ConversionError] = {}
        for by_kind in self._finished.values():
            _merge(total, by_kind)
        return total

    def _save(self) -> None:
        finished = {
            file_name: {kind: asdict(error) for kind, error in by_kind.items()}
            for file_name, by_kind in self._finished.items()
        }
        replace_text(self.folder / _RECORD, json.dumps({"request": self._request, "finished": finished}, indent=2))


def _write_shards(
    shards: Shards,
    outputs: Mapping[str, dict[str, Layout]],
    record: _Record,
    max_shard_bytes: int,
    *,
    powers_of_two: bool,
) -> None:
    sizes = {name: sum(layout.num_bytes for layout in layouts.values()) for name, layouts in outputs.items()}
    plan = plan_shards(sizes, max_shard_bytes)
    layouts_of = {
        file_name: {name: layout for source in names for name, layout in outputs[source].items()}
        for file_name, names in plan.items()
    }
    left = [file_name for file_name in plan if not record.has(file_name, layouts_of[file_name])]
    _require_space(record.folder, sum(sizes[name] for file_name in left for name in plan[file_name]))
    done = len(outputs) - sum(len(plan[file_name]) for file_name in left)
    if len(left) < len(plan):
        log(f"{len(plan) - len(left)} of {len(plan)} files are there from an earlier attempt")
    with progress("convert", len(outputs), done=done, unit="tensor") as job:
        for file_name in left:
            errors: dict[str, ConversionError] = {}
            tensors = _converted(
                shards, {name: outputs[name] for name in plan[file_name]}, errors, job, powers_of_two=powers_of_two
            )
            unfinished = record.folder / f"{file_name}.partial"
            write_file(unfinished, layouts_of[file_name], tensors)
            flush(unfinished)
            unfinished.replace(record.folder / file_name)
            record.finish(file_name, errors)
    names_of = {file_name: list(layouts) for file_name, layouts in layouts_of.items()}
    write_index(record.folder, names_of, dict(ChainMap(*layouts_of.values())))


def _converted(
    shards: Shards,
    outputs: Mapping[str, dict[str, Layout]],
    errors: dict[str, ConversionError],
    job: Progress,
    *,
    powers_of_two: bool,
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one file as they become what `outputs` says, counting errors and progress on the way."""
    for name, layouts in outputs.items():
        scales_name = name + SCALES
        if scales_name in layouts and scales_name not in shards:
            weight = shards.tensor(name)
            values, scales = quantize(weight, name, powers_of_two=powers_of_two)
            _merge(errors, {kind_of(name): _error(weight, values, scales, name)})
            yield name, values
            yield scales_name, scales
        elif shards.layout(name) == layouts[name]:
            yield from ((copied, shards.tensor(copied)) for copied in layouts)
        else:
            yield name, read_widened(shards, name).to(layouts[name].dtype)
        job.advance()


def _outputs(shards: Shards, name: str, to: WeightType, *, quantizes: bool) -> dict[str, Layout]:
    """What a tensor of the source becomes, by name."""
    layout = shards.layout(name)
    if name + SCALES in shards and to == "fp8":
        return {name: layout, name + SCALES: shards.layout(name + SCALES)}
    if to == "fp8":
        if not quantizes or not is_projection(name) or len(layout.shape) != 2 or layout.dtype not in _NUMBERS:
            return {name: layout}
        return {
            name: Layout(torch.float8_e4m3fn, layout.shape),
            name + SCALES: Layout(torch.float32, scales_shape(layout.shape)),
        }
    is_kept = layout.dtype not in _NUMBERS or (to == "bf16" and is_kept_exact(name))
    return {name: layout if is_kept else Layout(_DTYPES[to], layout.shape)}


def _error(weight: Tensor, values: Tensor, scales: Tensor, name: str) -> ConversionError:
    exact = weight.float()
    squared_size = _squared_sum(exact)
    squared_error = _squared_sum(widen(values, scales, name).sub_(exact))
    error = ConversionError(1, squared_error, squared_size)
    error.largest = error.relative
    return error


def _squared_sum(tensor: Tensor) -> float:
    return torch.linalg.vector_norm(tensor, dtype=torch.float64).item() ** 2


def _merge(total: dict[str, ConversionError], more: Mapping[str, ConversionError]) -> None:
    for kind, error in more.items():
        total.setdefault(kind, ConversionError()).add(error)


def _is_fp8(shards: Shards) -> bool:
    return any(is_scales(shards, name) for name in shards)


def read_convertible(shards: Shards, source: Path) -> dict[str, Any]:
    """The config.json of a source whose tensors are whole, with what it says of their quantisation left out."""
    config = read_published(source)
    _require_convertible(shards, config, "f32", powers_of_two=False)
    config.pop("quantization_config", None)
    return config


def _require_new(source: Path, target: Path) -> None:
    if not source.is_dir():
        raise ValueError(f"{source} is not a folder; give one with config.json and safetensors files")
    if target.exists():
        raise ValueError(f"{target} exists; give the name of a new folder, or remove it")
    if target.is_relative_to(source):
        raise ValueError(f"{target} lies in {source}, which is never written to; give a folder elsewhere")


def _require_convertible(shards: Shards, config: dict[str, Any], to: WeightType, *, powers_of_two: bool) -> None:
    complaints = list(dict.fromkeys([*shards.complaints, *mismatches(shards)]))
    if complaints:
        raise ValueError(
            f"{shards.folder}: {len(complaints)} complaints about its tensors; download it again\n  "
            + "\n  ".join(complaints)
        )
    quantization = config.get("quantization_config")
    if quantization is not None and not _is_deepseek_fp8(quantization):
        raise ValueError(
            f"quantization_config={quantization} in config.json is not DeepSeek's FP8 in blocks of {BLOCK}; "
            "convert a checkpoint in that format, bfloat16 or float32"
        )
    if to != "fp8":
        return
    if _is_fp8(shards):
        if powers_of_two and (quantization or {}).get("scale_fmt") != POWERS_OF_TWO:
            raise ValueError(
                f"{shards.folder} is in FP8 already, which is copied as it is; for scales that are powers of two "
                "convert it to bf16 first"
            )
    elif not any(map(is_projection, shards)):
        raise ValueError(f"{shards.folder} has no projection under a published name, so FP8 would change nothing")


def _is_deepseek_fp8(quantization: Any) -> bool:
    return (
        isinstance(quantization, dict)
        and quantization.get("quant_method") == "fp8"
        and quantization.get("weight_block_size") == [BLOCK, BLOCK]
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


def _write_others(source: Path, partial: Path, config: dict[str, Any]) -> None:
    """Tokenizer, templates and the like as they are; config.json as it has become."""
    for path in sorted(source.iterdir()):
        is_copied = path.suffix in _COPIED or path.name.startswith("LICENSE")
        is_ours = path.name in ("config.json", _RECORD) or path.name.endswith(".index.json")
        if path.is_file() and is_copied and not is_ours:
            shutil.copyfile(path, partial / path.name)
    (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for path in (*partial.iterdir(), partial):
        flush(path)


def _fingerprint(source: Path) -> list[list[Any]]:
    """Name, size and time of every file: a source that has changed is converted anew."""
    files = sorted(path for path in source.iterdir() if path.is_file())
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def _require_space(folder: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise OSError(f"{needed_bytes / 1e9:.2f} GB are to be written and {free_bytes / 1e9:.2f} GB are free")


def _what_to_do(source: Path, partial: Path) -> str:
    return (
        f"{source} is untouched; the same command goes on from the files finished in {partial}, "
        "which you may remove instead"
    )

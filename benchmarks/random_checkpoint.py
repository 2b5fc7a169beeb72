"""Write a checkpoint with random weights of any shape Gorae reads, from its config.json alone, tensor by tensor.

    python benchmarks/random_checkpoint.py config.json models/random --type bf16

So that loading and converting are measured at published sizes without anyone's weights. Memory is that of one tensor.
Deviations are those of the config's `initializer_range`; norms are one. MTP modules do not repeat the
embedding and head that they share, which a reader does not need.
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gorae.checkpoint.fp8 import SCALES, quantization_config, quantize, scales_shape
from gorae.checkpoint.names import is_kept_exact, is_projection, kind_of, places
from gorae.checkpoint.safetensors import Layout, write_file
from gorae.checkpoint.shards import MAX_SHARD_BYTES, plan_shards, write_index
from gorae.config import ModelConfig, from_published
from gorae.model import Network
from gorae.observe import progress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a published config.json")
    parser.add_argument("folder", type=Path, help="folder to make")
    parser.add_argument("--type", choices=["bf16", "fp8"], default="bf16", help="of the projections (default: bf16)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    published = json.loads(args.config.read_text(encoding="utf-8"))
    write_random(args.folder, published, fp8=args.type == "fp8", seed=args.seed)


def write_random(
    folder: Path,
    published: Mapping[str, Any],
    *,
    fp8: bool,
    seed: int = 0,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    degrees_of_freedom: int | None = None,
) -> None:
    """Fill a new folder with config.json and random weights under published names.

    They are normal, or with `degrees_of_freedom` above 2 of Student's t distribution, which has heavier tails.
    """
    config = from_published({key: value for key, value in published.items() if key != "quantization_config"})
    outputs = {name: _outputs(name, shape, fp8=fp8) for name, shape in _shapes(config).items()}
    sizes = {name: sum(layout.num_bytes for layout in layouts.values()) for name, layouts in outputs.items()}
    folder.mkdir(parents=True)
    free_bytes = shutil.disk_usage(folder).free
    if sum(sizes.values()) > free_bytes:
        raise OSError(f"{sum(sizes.values()) / 1e9:.1f} GB are to be written and {free_bytes / 1e9:.1f} GB are free")
    plan = plan_shards(sizes, max_shard_bytes)
    written: dict[str, list[str]] = {}
    all_layouts: dict[str, Layout] = {}
    with progress("random checkpoint", len(outputs), unit="tensor") as job:
        for number, (file_name, names) in enumerate(plan.items()):
            layouts = dict(chain.from_iterable(outputs[name].items() for name in names))
            generator = torch.Generator().manual_seed(seed + number)
            drawn = (_drawn(name, outputs[name], config.init_std, generator, degrees_of_freedom) for name in names)
            tensors = chain.from_iterable((job.advance(), tensors)[1] for tensors in drawn)
            write_file(folder / file_name, layouts, tensors)
            written[file_name] = list(layouts)
            all_layouts |= layouts
    write_index(folder, written, all_layouts)
    (folder / "config.json").write_text(json.dumps(_config(published, fp8=fp8), indent=2) + "\n", encoding="utf-8")


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        state = Network(config).state_dict()
    return {
        name: tuple(state[place.name].shape if place.expert is None else state[place.name].shape[1:])
        for name, place in places(config).items()
    }


def _outputs(name: str, shape: tuple[int, ...], *, fp8: bool) -> dict[str, Layout]:
    if fp8 and is_projection(name):
        scales = Layout(torch.float32, scales_shape(shape))
        return {name: Layout(torch.float8_e4m3fn, shape), name + SCALES: scales}
    return {name: Layout(torch.float32 if is_kept_exact(name) else torch.bfloat16, shape)}


def _drawn(
    name: str,
    layouts: Mapping[str, Layout],
    std: float,
    generator: torch.Generator,
    degrees_of_freedom: int | None,
) -> Iterator[tuple[str, Tensor]]:
    dtype, shape = layouts[name]
    if kind_of(name) == "norms":
        yield name, torch.ones(shape, dtype=dtype)
        return
    tensor = torch.empty(shape).normal_(std=std, generator=generator)
    if degrees_of_freedom is not None:  # over the root of a mean of squares, and brought to the same deviation
        squares = sum(torch.empty(shape).normal_(generator=generator).square_() for _ in range(degrees_of_freedom))
        tensor *= ((degrees_of_freedom - 2) / squares).sqrt_()
    if name + SCALES in layouts:
        values, scales = quantize(tensor, name)
        yield name, values
        yield name + SCALES, scales
    else:
        yield name, tensor.to(dtype)


def _config(published: Mapping[str, Any], *, fp8: bool) -> dict[str, Any]:
    config = {key: value for key, value in published.items() if key != "quantization_config"}
    if fp8:
        config["quantization_config"] = quantization_config(powers_of_two=False)
    return config | {"torch_dtype": "bfloat16"}


if __name__ == "__main__":
    main()

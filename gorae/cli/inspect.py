"""Say what a checkpoint is and what it takes, without loading it."""

import argparse

from gorae.checkpoint import Inspection, inspect
from gorae.cli.doctor import available_memory
from gorae.observe import format_bytes, format_count

EXAMPLE = "gorae inspect runs/laptop/rl/model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="folder, Hugging Face id or .gguf file")


def run(args: argparse.Namespace) -> None:
    for name, value in describe(inspect(args.path)):
        print(f"{name:<28} {value}")


def describe(found: Inspection) -> list[tuple[str, str]]:
    """What is printed, a line a pair."""
    config, parameters = found.config, found.parameters
    available = available_memory()
    lines = [
        ("architecture", f"{found.architecture}, {config.num_layers} layers, model_dim {config.model_dim}"),
        ("parameters", f"{format_count(parameters.total)}, of which a token uses {format_count(parameters.active)}"),
        ("positions", f"{config.max_positions:,}"),
        *((f"{kind}, {type_name}", format_bytes(size)) for (kind, type_name), size in sorted(found.bytes_of.items())),
        ("on the disk", f"{format_bytes(found.stored_bytes)}, {found.bits_per_weight:.2f} bits a parameter"),
        ("cache a token", format_bytes(found.cache_bytes_per_token)),
    ]
    if found.latent_bytes_per_token is not None and not found.is_fast:
        lines.append(("latent a token, bfloat16", format_bytes(found.latent_bytes_per_token)))
    ways = [("as stored, to compute", found.stored_bytes), ("in float32, to train", found.network_bytes)]
    if found.is_fast:
        ways = ways[:1]
    if not found.is_mapped:
        ways = [("in float32", found.network_bytes)]
    lines.append(("memory available", format_bytes(available)))
    lines += ((way, _verdict(size, available, found.cache_bytes_per_token)) for way, size in ways)
    return lines


def _verdict(size: int, available: int, cache_bytes_per_token: int) -> str:
    if size > available:
        return f"{format_bytes(size)}: does not fit here"
    room = (available - size) // cache_bytes_per_token
    return f"{format_bytes(size)}: fits, with a cache of {format_count(room)} tokens beside it"

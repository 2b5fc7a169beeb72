"""Convert a checkpoint folder or a GGUF file: quantise it for fast mode, to FP8, bfloat16, float32 or a GGUF file.

Works tensor by tensor on checkpoints larger than memory; an interrupted conversion goes on with the same command.
"""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

from gorae.checkpoint import (
    MAX_SHARD_BYTES,
    MOST_TOKENS,
    Closeness,
    ConversionError,
    compare,
    convert,
    convert_to_gguf,
    load,
    load_tokenizer,
    resolve,
)

FOLDERS = ("mixed", "int4", "int8", "bf16-panels", "fp8", "bf16", "f32")
GGUF = ("gguf-f16", "gguf-q8_0", "gguf-q4_0")
_CHARACTERS_A_TOKEN = 32  # a text is not read further
EXAMPLE = "gorae convert models/v2-lite models/v2-lite-mixed --to mixed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="folder, .gguf file or Hugging Face id; it stays as it is")
    parser.add_argument("target", type=Path, help="folder to make; of GGUF the file")
    parser.add_argument(
        "--to",
        choices=[*FOLDERS, *GGUF],
        default="mixed",
        help="what the weights become; mixed, about 4.9 bits a weight, if not given",
    )
    parser.add_argument("--ue8m0", action="store_true", help="FP8 scales are powers of two, as in DeepSeek-V3.1")
    parser.add_argument(
        "--max-shard-size",
        metavar="SIZE",
        help=f"most that one file of a folder holds, such as 500MB (default: {MAX_SHARD_BYTES // 10**9}GB)",
    )
    parser.add_argument(
        "--text",
        metavar="FILE",
        type=Path,
        help=f"text whose first {MOST_TOKENS:,} tokens both predict then, to tell what the conversion costs",
    )


def run(args: argparse.Namespace) -> None:
    if args.ue8m0 and args.to != "fp8":
        raise ValueError(f"--ue8m0 is about FP8 scales and --to {args.to} has none; leave it out")
    if args.max_shard_size is not None and args.to in GGUF:
        raise ValueError(f"--max-shard-size is about the files of a folder and --to {args.to} makes one; leave it out")
    max_shard_bytes = MAX_SHARD_BYTES if args.max_shard_size is None else parse_size(args.max_shard_size)
    source = resolve(args.source)
    token_ids, start_ids = ([], []) if args.text is None else tokens_of(args.text, source)
    if args.to in GGUF:
        convert_to_gguf(source, args.target, args.to.removeprefix("gguf-"))
    else:
        options = {"powers_of_two": args.ue8m0, "max_shard_bytes": max_shard_bytes}
        print_errors(convert(source, args.target, args.to, **options))
    print(f"{args.target} is ready")
    if args.text is not None:
        original, result = (load(path).network for path in (source, args.target))
        print_closeness(compare(original, result, token_ids, start_ids=start_ids))


def tokens_of(file: Path, source: Path) -> tuple[list[int], list[int]]:
    """The beginning of a text in tokens of the source, and those that a text begins with."""
    tokenizer = load_tokenizer(source)
    if tokenizer is None:
        raise ValueError(f"{source} has no tokenizer, which --text needs; leave it out, or add tokenizer.json")
    with file.open(encoding="utf-8") as opened:
        token_ids = tokenizer.encode(opened.read(_CHARACTERS_A_TOKEN * MOST_TOKENS))
    if len(token_ids) < 2:
        raise ValueError(f"{file} has fewer than two tokens, so that none can be predicted; give a longer text")
    return token_ids, tokenizer.text_start_ids


def parse_size(text: str) -> int:
    """The bytes of a size such as 500MB, 1.5GB or 2GiB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT])(i?)B", text, re.IGNORECASE)
    step = 1024 if found and found[3] else 1000
    size = int(float(found[1]) * step ** ("KMGT".index(found[2].upper()) + 1)) if found else 0
    if size < 1:
        raise ValueError(
            f"--max-shard-size {text} is no size above 0; give a number and its unit, such as 5GB or 500MB"
        )
    return size


def print_errors(errors: Mapping[str, ConversionError]) -> None:
    """Print the error of each kind of tensor, if any was quantised."""
    if errors:
        print(f"{'quantised':<16} {'tensors':>8} {'error':>8} {'worst':>8}")
    for kind, error in sorted(errors.items()):
        print(f"{kind:<16} {error.tensors:>8} {error.relative:>8.3%} {error.largest:>8.3%}")
    if errors:
        print("error: root of squared difference over squared original; worst: of any one tensor")


def print_closeness(found: Closeness) -> None:
    """Print what the conversion changed in the prediction of a text."""
    print(f"over {found.num_tokens:,} predicted tokens")
    print(f"{'perplexity':<16} {found.original_perplexity:.4f} before, {found.result_perplexity:.4f} after")
    print(f"{'KL, nats a token':<16} {found.mean_kl:.3g} on average, {found.p99_kl:.3g} at the 99th percentile")

"""Time the engine on a model, line by line, and say what share of this machine it reaches.

The machine is measured first: how fast memory is read and how many multiply-adds are done, with all threads.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from gorae.config import CacheType
from gorae.observe import format_bytes, format_count
from gorae.recipes import Peaks, Speed, SpeedReport, measure_speed, set_up_process

EXAMPLE = "gorae bench runs/laptop/rl/model --only decode --json bench.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, help="folder, Hugging Face id or .gguf file")
    parser.add_argument(
        "--mode", choices=["exact", "fast"], help="as gorae.load (default: what its weights are made for)"
    )
    parser.add_argument("--cache-type", choices=get_args(CacheType), help="of what is remembered (default: the mode's)")
    parser.add_argument("--only", action="append", default=[], metavar="LINE", help="one line; may be given again")
    parser.add_argument("--turns", type=int, default=3, help="how often a line is timed (default: 3)")
    parser.add_argument("--threads", type=int, help="of the processor (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures as well")


def run(args: argparse.Namespace) -> None:
    if args.turns < 1:
        raise ValueError(f"--turns {args.turns} must be at least 1")
    set_up_process(args.threads)
    report = measure_speed(
        args.path, mode=args.mode, only=args.only, turns=args.turns, cache_type=args.cache_type, tell=tell
    )
    for line in closing(report):
        print(line)
    if args.json is not None:
        args.json.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")


def tell(found: Peaks | Speed) -> None:
    """Print a figure as it comes."""
    if isinstance(found, Peaks):
        rates = f"reads {format_bytes(int(found.read_bytes_per_second))}/s, float32 {found.flops_per_second / 1e9:.0f}"
        rates += f" GFLOP/s, int8 {found.int8_per_second / 1e9:.0f} GOP/s"
        print(f"{found.processor}, {found.threads} threads, kernels {found.kernels}: {rates}")
        print(f"{'':<16} {'tokens/s':>9} {'weights':>9} {'cache':>9} {'GFLOP':>8}   share of")
    else:
        taken = (
            f"{format_bytes(int(found.weight_bytes_per_token)):>9} {format_bytes(int(found.cache_bytes_per_token)):>9}"
        )
        rate = f"{found.tokens_per_second:>9.1f} {taken} {found.flops_per_token / 1e9:>8.3g}"
        print(f"{found.line:<16} {rate}   {found.share:.0%} {found.limit}", flush=True)


def closing(report: SpeedReport) -> list[str]:
    """What is printed below the table."""
    total, active = format_count(report.parameters.total), format_count(report.parameters.active)
    lines = [f"{name:<16} {reason}" for name, reason in report.left_out.items()]
    lines.append("weights and cache: bytes read a token; share: of what the machine was measured at, the larger one")
    lines.append(
        f"{report.mode}, {total} parameters of which a token uses {active}; loaded in {report.load_seconds:.2f} s"
    )
    if report.memory is not None:
        own, all_of_it = map(format_bytes, report.memory)
        lines.append(f"memory: {own} anonymous, {all_of_it} with its share of the pages of files")
    return lines

"""Reproduce published claims in small: fresh seeds, every comparison, and a table beside the published figures.

Running the same command again goes on where it was stopped. Seeds may be made one by one, or by several processes at
once, and put together by a last call with all of them.
"""

import argparse
from pathlib import Path

from gorae.recipes import SEEDS, LaptopSettings, reproduce_reasoning

EXAMPLE = "gorae reproduce reasoning --out runs/reasoning --threads 1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("claims", choices=["reasoning"], help="which claims: R1's, on the laptop recipe's models")
    parser.add_argument("--out", type=Path, default=Path("runs/reasoning"), help="run folder (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="default: %(default)s, never tuned on")
    parser.set_defaults(settings=LaptopSettings())


def run(args: argparse.Namespace) -> None:
    reproduce_reasoning(args.out, args.settings, args.seeds)

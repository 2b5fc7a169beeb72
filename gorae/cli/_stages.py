"""What the verbs that do part of a recipe share: the run folder, its settings, and how far to go."""

import argparse
from pathlib import Path

from gorae.recipes import LaptopSettings, Run, make_models

LAPTOP = Path("runs/laptop")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=LAPTOP, help="run folder (default: %(default)s)")
    parser.set_defaults(settings=LaptopSettings())


def do_stages(args: argparse.Namespace, *, until: str) -> None:
    """Do the recipe's stages up to and including `until` in the run folder."""
    make_models(Run.open(args.out, args.settings), until=until)

"""Run a whole recipe: make a reasoning model from nothing, measure it, show the bill and serve it.

Running the same command again goes on where it was stopped, even by kill -9.
"""

import argparse
from pathlib import Path

from gorae.recipes import LaptopSettings, run_laptop, run_r1, serve_model
from gorae.server import check_address

EXAMPLE = "gorae run laptop --out runs/laptop --rl.steps 80"


RECIPES = {"laptop": (run_laptop, "rl"), "r1": (run_r1, "rl_for_all")}  # and the stage whose model is served


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", choices=list(RECIPES), help="laptop, the short way, or r1, every stage of R1")
    parser.add_argument("--out", type=Path, help="run folder (default: runs/ and the recipe's name)")
    parser.add_argument("--no-serve", action="store_true", help="stop after the report instead of serving the model")
    parser.set_defaults(settings=LaptopSettings())


def run(args: argparse.Namespace) -> None:
    if not args.no_serve:
        check_address(args.settings.serve.host, args.settings.serve.port)
    make, stage = RECIPES[args.recipe]
    folder = args.out or Path("runs") / args.recipe
    make(folder, args.settings)
    if not args.no_serve:
        serve_model(folder / stage / "model", args.settings.serve)

"""Evaluate a model on the sealed items: pass@1 at temperature 1 and majority vote, with bootstrap intervals.

The items are those of the laptop recipe, never seen by any of its training stages.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from gorae.evals import print_table
from gorae.recipes import EvaluateSettings, LaptopSettings, evaluate_folder, model_name

EXAMPLE = "gorae evaluate runs/laptop/rl/model --mode think --evaluate.items 300"


@dataclass(frozen=True)
class Settings:
    threads: int | None = None
    evaluate: EvaluateSettings = EvaluateSettings()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="folder, Hugging Face id or .gguf file, with its tokenizer")
    parser.add_argument(
        "--mode", choices=["free", "think", "direct"], default="free", help="who chooses to think (default: the model)"
    )
    parser.set_defaults(settings=Settings())


def run(args: argparse.Namespace) -> None:
    settings = LaptopSettings(threads=args.settings.threads, evaluate=args.settings.evaluate)
    print_table({f"{model_name(args.model)}, {args.mode}": evaluate_folder(args.model, settings, mode=args.mode)})

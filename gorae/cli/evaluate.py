"""Evaluate a model on sealed items: what it earns at temperature 1, with bootstrap intervals.

The items are those of the laptop recipe, never seen by any of its training stages: pass@1 and majority vote. Or, with
--task, the rows of a task that runs on it keep apart: mean rewards.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from gorae.evals import print_table
from gorae.recipes import (
    EvaluateSettings,
    LaptopSettings,
    evaluate_folder,
    evaluate_on_task,
    model_name,
    print_earned,
)

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
    parser.add_argument("--task", help="a .py or .jsonl file, reasoning_gym:FAMILY, or one of ours")
    parser.set_defaults(settings=Settings())


def run(args: argparse.Namespace) -> None:
    if args.task is not None:
        if args.mode != "free":
            raise ValueError(f"--mode {args.mode} is for the recipe's items; with --task the model's template decides")
        wanted, threads = args.settings.evaluate, args.settings.threads
        print_earned({model_name(args.model): evaluate_on_task(args.model, args.task, wanted, threads=threads)})
        return
    settings = LaptopSettings(threads=args.settings.threads, evaluate=args.settings.evaluate)
    print_table({f"{model_name(args.model)}, {args.mode}": evaluate_folder(args.model, settings, mode=args.mode)})

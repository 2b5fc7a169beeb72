"""Evaluate a model on sealed items: what it earns at temperature 1, with bootstrap intervals.

The items are those of the laptop recipe, never seen by any of its training stages; or, with --task, the rows that runs
on a task keep apart. Columns: pass@k without bias, majority vote, length, how much is in the language of the question.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gorae.config import as_dict
from gorae.evals import print_table
from gorae.observe import replace_text
from gorae.recipes import (
    EvaluateSettings,
    LaptopSettings,
    evaluate_folder,
    evaluate_on_task,
    model_name,
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
    parser.add_argument("--all", action="store_true", help="every row of a list, such as a suite nothing learnt from")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures as well")
    parser.set_defaults(settings=Settings())


def run(args: argparse.Namespace) -> None:
    name, summary = evaluated(args)
    print_table({name: summary})
    if args.json is not None:
        told = {"model": name, "task": args.task, "summary": summary, "settings": as_dict(args.settings)}
        replace_text(args.json, json.dumps(told, indent=2, ensure_ascii=False) + "\n")


def evaluated(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """What to call the model in a table, and the summary of its replies."""
    if args.task is not None:
        if args.mode != "free":
            raise ValueError(f"--mode {args.mode} is for the recipe's items; with --task the model's template decides")
        wanted, threads = args.settings.evaluate, args.settings.threads
        told = evaluate_on_task(args.model, args.task, wanted, threads=threads, every_row=args.all)
        return model_name(args.model), told
    if args.all:
        raise ValueError("--all is for the rows of a --task; of the recipe's items give --evaluate.items")
    settings = LaptopSettings(threads=args.settings.threads, evaluate=args.settings.evaluate)
    return f"{model_name(args.model)}, {args.mode}", evaluate_folder(args.model, settings, mode=args.mode)

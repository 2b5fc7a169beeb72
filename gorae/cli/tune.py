"""Tune a model: by reinforcement learning on a task, on examples, on preferences, or as the laptop recipe does.

With --model and --task: measure the model on rows kept apart, say what learning will find and take, learn, and measure
again; the model is OUT/rl/model. With --plan too, it ends before it learns; without, the same command goes on.
With --model and --examples, conversations to imitate, it is OUT/sft/model; with --model and --preferences, pairs of
replies of which one was chosen, OUT/dpo/model. Each learns on less memory by its adapter.rank or adapter.experts.
Without --model: the recipe's cold start on worked solutions, then its reinforcement learning. Stages that come before
are done first; stages already done in the run folder are not done again.
"""

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

from gorae.cli._stages import LAPTOP, do_stages
from gorae.posttrain import DpoSettings
from gorae.recipes import (
    ExamplesSettings,
    LaptopSettings,
    PreferencesSettings,
    TaskSettings,
    TuneSettings,
    tune_on_examples,
    tune_on_preferences,
    tune_on_task,
)

EXAMPLE = "gorae tune --task my_task.py --model runs/laptop/cold_start/model --out runs/mine --rl.steps 40"
# Settings that each has, beside those of all.
OF = {"task": ("rl", "evaluate"), "examples": ("sft",), "preferences": ("dpo",)}
OF_ALL = ("seed", "threads")


@dataclass(frozen=True)
class TuneVerbSettings(LaptopSettings):
    __doc__ = LaptopSettings.__doc__
    sft: TuneSettings = TuneSettings()
    dpo: DpoSettings = DpoSettings()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, help=f"run folder (default: {LAPTOP}, or runs/ and the name of the rows)")
    parser.set_defaults(settings=TuneVerbSettings())
    parser.add_argument("--task", help="what to learn: a .py or .jsonl file, reasoning_gym:FAMILY, or one of ours")
    parser.add_argument("--examples", type=Path, help="or a .jsonl file of messages, or of prompt and completion")
    parser.add_argument("--preferences", type=Path, help="or a .jsonl file of prompt, chosen and rejected")
    parser.add_argument("--model", type=Path, help="where to begin: folder, Hugging Face id or .gguf file")
    parser.add_argument("--device", help="of a task: cpu, cuda or cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--plan", action="store_true", help="only say what learning a task will find and take")


def run(args: argparse.Namespace) -> int:
    """The exit status: 3 if an alarm rang, though the run went on to its end."""
    given = [kind for kind in OF if getattr(args, kind) is not None]
    recipe = [field.name for field in fields(LaptopSettings)]
    if not given and args.model is None and not args.plan:
        require_of(args.overrides, recipe, "the laptop recipe")
        args.out = args.out or LAPTOP
        args.settings = LaptopSettings(**{name: getattr(args.settings, name) for name in recipe})
        do_stages(args, until="rl")
        return 0
    if len(given) != 1 or args.model is None:
        raise ValueError(
            "--model goes together with one of --task, --examples and --preferences: what to learn, and the model that "
            "learns it"
        )
    (kind,) = given
    for flag in ("plan", "device"):
        if getattr(args, flag) and kind != "task":
            raise ValueError(f"--{flag} is for a task; with --{kind} leave it out")
    require_of(args.overrides, (*OF_ALL, *OF[kind]), f"a run with --{kind}")
    rows = getattr(args, kind)
    folder = args.out or Path("runs") / Path(str(rows).replace(":", "-")).stem
    shared = {name: getattr(args.settings, name) for name in (*OF_ALL, *OF[kind])}
    if kind == "task":
        told = tune_on_task(folder, TaskSettings(rows, args.model, device=args.device, **shared), only_plan=args.plan)
    elif kind == "examples":
        told = tune_on_examples(folder, ExamplesSettings(rows, args.model, **shared))
    else:
        told = tune_on_preferences(folder, PreferencesSettings(rows, args.model, **shared))
    return 3 if told["alarms"] else 0


def require_of(overrides: dict[str, str], known: list[str] | tuple[str, ...], told: str) -> None:
    if idle := [key for key in overrides if key.split(".")[0] not in known]:
        raise ValueError(f"--{idle[0]} says nothing about {told}; of the settings it has {', '.join(known)}")

"""Tune a model by reinforcement learning: on a task of yours, or as the laptop recipe does.

With --task and --model: measure the model on rows kept apart, say what learning will find and take, learn, and measure
again; the model is OUT/rl/model. With --plan too, it ends before it learns; without, the same command goes on.
Without them: the recipe's cold start on worked solutions, then its reinforcement learning. Stages that come before are
done first; stages already done in the run folder are not done again.
"""

import argparse
from pathlib import Path

from gorae.cli._stages import LAPTOP, do_stages
from gorae.recipes import LaptopSettings, TaskSettings, tune_on_task

EXAMPLE = "gorae tune --task my_task.py --model runs/laptop/cold_start/model --out runs/mine --rl.steps 40"
OF_A_TASK = ("seed", "threads", "rl", "evaluate")  # settings that a task has too


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, help=f"run folder (default: {LAPTOP}, or runs/ and the task's name)")
    parser.set_defaults(settings=LaptopSettings())
    parser.add_argument("--task", help="what to learn: a .py or .jsonl file, reasoning_gym:FAMILY, or one of ours")
    parser.add_argument("--model", type=Path, help="where to begin: folder, Hugging Face id or .gguf file")
    parser.add_argument("--device", help="of a task: cpu, cuda or cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--plan", action="store_true", help="only say what learning a task will find and take")


def run(args: argparse.Namespace) -> int:
    """The exit status: 3 if an alarm rang, though the run went on to its end."""
    if args.task is None and args.model is None and not args.plan:
        args.out = args.out or LAPTOP
        do_stages(args, until="rl")
        return 0
    if args.task is None or args.model is None:
        raise ValueError("--task and --model go together: what to learn, and the model that learns it")
    if idle := [key for key in args.overrides if key.split(".")[0] not in OF_A_TASK]:
        raise ValueError(f"--{idle[0]} says nothing about a task; of the settings it has {', '.join(OF_A_TASK)}")
    settings: LaptopSettings = args.settings
    shared = {name: getattr(settings, name) for name in OF_A_TASK}
    folder = args.out or Path("runs") / Path(args.task.replace(":", "-")).stem
    wanted = TaskSettings(args.task, args.model, device=args.device, **shared)
    told = tune_on_task(folder, wanted, only_plan=args.plan)
    return 3 if told["alarms"] else 0

"""Distil a teacher into a student: on a task of yours, or as the laptop recipe does.

With --task, --teacher and --student: measure both on rows kept apart, let the student learn, and measure it again; the
model is OUT/distill/model. --from says what is learnt: traces (the teacher's right answers, imitated), logits (what the
teacher would say at each of their tokens) or policy (the same on the student's own replies). The teacher may be the
address of an API, whose key is taken from the environment variable GORAE_API_KEY; then from traces.
Without them: the recipe's student learns from its reinforced teacher. Stages that come before are done first; stages
already done in the run folder are not done again.
"""

import argparse
import os
from dataclasses import dataclass, fields
from pathlib import Path

from gorae.cli._stages import LAPTOP, do_stages
from gorae.recipes import SOURCES, LaptopSettings, TaskDistillSettings, TeachSettings, distil_on_task

EXAMPLE = "gorae distill --task counter --teacher runs/laptop/rl/model --student runs/laptop/student_cold_start/model"
KEY = "GORAE_API_KEY"
OF_A_TASK = ("seed", "threads", "teach", "evaluate")  # settings that a task has


@dataclass(frozen=True)
class Settings(LaptopSettings):
    """All settings of the laptop recipe, and `teach` for a task, which has of the others: seed, threads, evaluate."""

    teach: TeachSettings = TeachSettings()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, help=f"run folder (default: {LAPTOP}, or runs/ and the task's name)")
    parser.set_defaults(settings=Settings())
    parser.add_argument("--task", help="what to learn: a .py or .jsonl file, reasoning_gym:FAMILY, or one of ours")
    parser.add_argument("--teacher", help="folder, Hugging Face id or .gguf file, or an API: https://HOST/v1")
    parser.add_argument("--student", type=Path, help="where to begin: folder, Hugging Face id or .gguf file")
    parser.add_argument("--from", dest="source", choices=SOURCES, default="traces", help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """The exit status: 3 if an alarm rang, though the run went on to its end."""
    given = [args.task, args.teacher, args.student]
    if given == [None, None, None] and args.source == "traces":
        require_known(args.overrides, [one.name for one in fields(LaptopSettings)], "the laptop recipe")
        args.out = args.out or LAPTOP
        args.settings = LaptopSettings(**{one.name: getattr(args.settings, one.name) for one in fields(LaptopSettings)})
        do_stages(args, until="distill")
        return 0
    if None in given:
        raise ValueError("--task, --teacher and --student go together: what to learn, who knows it, and who learns it")
    require_known(args.overrides, OF_A_TASK, "a task")
    shared = {name: getattr(args.settings, name) for name in OF_A_TASK}
    folder = args.out or Path("runs") / f"{Path(args.task.replace(':', '-')).stem}-distilled"
    settings = TaskDistillSettings(args.task, args.teacher, args.student, args.source, **shared)
    told = distil_on_task(folder, settings, api_key=os.environ.get(KEY))
    return 3 if told["alarms"] else 0


def require_known(overrides: dict[str, str], sections: list[str] | tuple[str, ...], of: str) -> None:
    if idle := [key for key in overrides if key.split(".")[0] not in sections]:
        raise ValueError(f"--{idle[0]} says nothing about {of}; of the settings it has {', '.join(sections)}")

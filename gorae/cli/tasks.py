"""Prove a task before a run learns from it: right answers earn 1, empty ones, echoes and guesses earn 0.

A task is a .py file with rows and reward functions, a .jsonl file of prompts and answers, or reasoning_gym:FAMILY.
"""

import argparse

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gorae.tasks import Examination, Graders, Limits, examine

EXAMPLE = "gorae tasks check my_task.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["check"])
    parser.add_argument("task", help="a .py file, a .jsonl file, reasoning_gym:FAMILY, or one that comes with Gorae")
    parser.add_argument("--rows", type=int, default=32, help="how many are tried (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="that they are drawn from (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=Limits().seconds, help="for a call (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """The exit status: 1 if the grader is not to be trusted."""
    if args.rows < 1:
        raise ValueError(f"--rows {args.rows} must be at least 1")
    with Graders(args.task, limits=Limits(seconds=args.seconds)) as graders:
        found = examine(graders, num_rows=args.rows, seed=args.seed)
    Console().print(table_of(found))
    print(verdict_of(found))
    return 0 if found.is_sound else 1


def table_of(found: Examination) -> Table:
    table = Table("replies", "should earn", "do", "for example", box=SIMPLE_HEAD, pad_edge=False)
    for one in found.findings:
        mark = "✓" if one.is_well else "✗"
        table.add_row(f"{mark} {one.kind}", one.wanted, f"{one.num_well} of {one.num_all}", one.example)
    return table


def verdict_of(found: Examination) -> str:
    failed = [one.kind for one in found.findings if not one.is_well]
    if failed:
        return f"this grader is not to be trusted yet: {', '.join(failed)}"
    form = "" if found.form == "{}" else f", written as {found.form.format('ANSWER')}"
    return f"sound: right answers{form} earn all, and the others nothing"

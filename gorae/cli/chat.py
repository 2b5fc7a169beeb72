"""Chat with a model in the terminal; the thinking is shown dim, the answer plain.

A stranger to the model like any other client: it asks the server at --url, or one of its own for --model. Each line is
a question of its own, unless --remember makes it the next turn of one conversation. GORAE_API_KEY, an environment
variable, is the key of a server that wants one.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from gorae.client import ChatClient, ClientError, whole_reply

EXAMPLE = "gorae chat --model runs/laptop/rl/model --think"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", nargs="*", help="ask this and leave; without it, ask until the input ends")
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--url", default="http://127.0.0.1:8000/v1", help="where a model is served (default: %(default)s)"
    )
    place.add_argument("--model", type=Path, help="load this model instead: a folder, a .gguf file or an id")
    parser.add_argument("--remember", action="store_true", help="go on with the conversation, line after line")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--think", action="store_true", help="make it think")
    choice.add_argument("--direct", action="store_true", help="make it answer at once")


def run(args: argparse.Namespace) -> None:
    options = {"thinking": {"type": "enabled" if args.think else "disabled"}} if args.think or args.direct else {}
    console = Console(highlight=False, markup=False, emoji=False)
    with address(args) as url, ChatClient(url) as client:
        turns: list[dict] = []
        for question in [" ".join(args.question)] if args.question else questions(console):
            turns = [*(turns if args.remember else []), {"role": "user", "content": question}]
            try:
                turns = [*turns, answer(client, turns, options, console)]
            except ClientError as error:  # the address of a server of our own tells nobody anything
                raise ValueError(str(error).replace(url, str(args.model or url))) from error


@contextmanager
def address(args: argparse.Namespace) -> Iterator[str]:
    """Where to ask, while the block runs."""
    if args.model is None:
        yield args.url
        return
    from gorae.recipes import served_model  # torch only where a model is loaded

    with served_model(args.model) as url:
        yield url


def questions(console: Console):
    """Lines typed until the end of the input."""
    if console.is_terminal and sys.stdin.isatty():
        console.print("a question a line; Ctrl-D ends", style="dim")
    while True:
        try:
            question = console.input("> ")
        except EOFError:
            console.print()
            return
        if question.strip():
            yield question


def answer(client: ChatClient, turns: list[dict], options: dict, console: Console) -> dict:
    """Print a reply as it comes, the answer on a line of its own; returns it as the next turn."""
    has_reasoning, deltas = False, []
    for delta in client.stream(turns, **options):
        deltas.append(delta)
        console.print(delta.reasoning, style="dim", end="")
        if has_reasoning and delta.content:
            console.print("\n")
        has_reasoning = (has_reasoning or bool(delta.reasoning)) and not delta.content
        console.print(delta.content, end="")
        if delta.finish_reason == "length":
            console.print("\n(cut off: question and reply fill all the model's positions)", style="dim", end="")
    console.print()
    return whole_reply(deltas).message

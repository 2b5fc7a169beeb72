"""Rollouts a second of the laptop recipe, of this checkout beside those of another commit, in exact float32.

    python benchmarks/rollouts.py --against 730ba4f

The other commit is checked out into a temporary folder, and its kernels are compiled there if it has any. Both run as
processes of their own and take turns, at least seven times; a turn is a step of reinforcement learning without its
learning, replies of full length to groups of equal prompts. A ratio above 1 means this checkout is faster. 730ba4f is
the skeleton, the recipe on plain PyTorch as its evidence was made; 49aa709 is the last commit before compiled kernels.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from worker import Worker, spread

HERE = Path(__file__).parents[1]


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A worktree of `commit` while the block runs, with its compiled kernels."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "checkout"
        git = ["git", "-C", str(HERE), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(place), commit], check=True)
        try:
            if (place / "gorae/kernels/native.cc").is_file():
                command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
                subprocess.run(command, cwd=place, check=True)
            yield place
        finally:
            subprocess.run([*git, "remove", "--force", str(place)], check=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="COMMIT", help="another commit; without it, this checkout alone")
    parser.add_argument("--prompts", type=int, default=12, help="of a step (default: 12, as the recipe has)")
    parser.add_argument("--samples", type=int, default=16, help="replies to a prompt (default: 16)")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    options = {"threads": args.threads, "prompts": args.prompts, "samples": args.samples}
    with Worker("peer_rollouts.py", HERE, **options) as ours:
        if args.against is None:
            told = {"rollouts_per_second": alone(ours, args.pairs, args.prompts * args.samples)}
        else:
            with (
                checked_out(args.against) as place,
                Worker("peer_rollouts.py", place, checkout=place, **options) as other,
            ):
                told = beside(ours, other, args.pairs, args.prompts * args.samples)
    if args.json:
        args.json.write_text(json.dumps(options | {"against": args.against} | told, indent=2) + "\n", encoding="utf-8")


def alone(ours: Worker, turns: int, num_rollouts: int) -> float:
    ours.ask("turn", number=0)  # caches are warm
    rate = num_rollouts / median(ours.ask("turn", number=number) for number in range(1, turns + 1))
    print(f"{rate:.1f} rollouts a second")
    return rate


def beside(ours: Worker, other: Worker, pairs: int, num_rollouts: int) -> dict[str, float]:
    for side in (ours, other):
        side.ask("turn", number=0)
    turns = [(ours.ask("turn", number=number), other.ask("turn", number=number)) for number in range(1, pairs + 1)]
    ratio, low, high = spread([theirs / mine for mine, theirs in turns])
    mine, theirs = (num_rollouts / median(side) for side in zip(*turns, strict=True))
    print(f"{mine:.1f} rollouts a second against {theirs:.1f}: {ratio:.2f} times (quartiles {low:.2f} to {high:.2f})")
    return {"rollouts_per_second": mine, "theirs": theirs, "ratio": ratio, "low": low, "high": high}


if __name__ == "__main__":
    main()

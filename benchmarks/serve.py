"""Gorae's engine beside llama.cpp on the same random weights at the same bits: speed, memory, load, and what is lost.

    python benchmarks/serve.py --shape v2-small --bits 4 --folder models/bench --json serve.json

Both run as processes of their own and take turns, so that what the machine does otherwise falls on both. Weights are
drawn once, with heavy tails. Gorae has them as `gorae convert --to` int4 or int8 makes them and computes in fast mode,
or as bf16-panels or stored bfloat16 (`--bits exact`) and computes in exact mode; llama.cpp has q4_0, q8_0 or f16.

Prompts are random tokens, distinct in every turn, and neither side keeps prefixes or speculates. A turn of decoding is
24 tokens a request; behind more than 16 tokens the next turn goes on from there. Gorae samples its continuation at
temperature 1, which is part of its time; llama.cpp is given random tokens. llama.cpp runs at the best of flash
attention and repacked weights on and off, and of three micro-batch sizes where it reads more than those, tried
beforehand on each line (with 1024 tokens at most). A ratio above 1 means Gorae is faster; printed are the median and
the quartiles of the pairs. Shares are of what the machine was measured at: bytes of memory read, or multiply-adds (in
fast mode of int8, else of float32), whichever is larger. Memory is anonymous pages, and the process's share of the
pages of files.

`--beside transformers` takes that library instead, in float32. llama.cpp is what `make test-slow` compiles. `v2-lite`
takes 34 GB of disk while it is converted and 18 afterwards.
"""

import argparse
import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from random_checkpoint import write_random
from shapes import SHAPES
from worker import Worker, spread

from gorae.checkpoint import convert, convert_to_gguf
from gorae.engine import LINES, Line, random_prompts
from gorae.observe import HeldMemory
from gorae.recipes import Peaks, measure_peaks

HEAVY_TAILS = 5  # degrees of freedom of the t distribution that published weights resemble more than a normal one
MICRO_BATCHES = (128, 2048)  # besides llama.cpp's own, 512
TRIED_DEPTH = 1024
QUALITY_PROMPTS = (4, 128)  # how many, and their length
LARGE = {"v2-lite"}  # whose source is drawn in FP8, and removed when both sides have theirs


class Format(NamedTuple):
    """What the same weights become: `gorae convert --to ours` (None: they stay) in a mode, and a type of GGUF."""

    ours: str | None
    mode: str
    theirs: str


FORMATS = {
    "4": Format("int4", "fast", "q4_0"),
    "mixed": Format("mixed", "fast", "q4_0"),
    "8": Format("int8", "fast", "q8_0"),
    "16": Format("bf16-panels", "exact", "f16"),
    "exact": Format(None, "exact", "f16"),
}


class Weights(NamedTuple):
    """The same weights three times; `source` is gone where it was large."""

    source: Path
    ours: Path
    theirs: Path


@dataclass(frozen=True)
class Result:
    """One line of the table: tokens a second in the median, and the ratio of each pair of turns."""

    line: str
    gorae: float
    other: float
    ratio: float
    low: float
    high: float
    share: float  # of the machine, that Gorae reaches
    gorae_memory: HeldMemory
    other_memory: HeldMemory
    tuning: dict[str, Any]
    first_seconds: tuple[float, float]  # of the turn that warms up, on both sides, reading the prompts and all


def prepare(folder: Path, shape: str, form: Format) -> Weights:
    """Draw and convert what is not there yet; what a kill left half done is made anew or goes on."""
    source = folder / shape
    ours = source if form.ours is None else folder / f"{shape}-{form.ours}"
    weights = Weights(source, ours, folder / f"{shape}-{form.theirs}.gguf")
    missing = [path for path in weights[1:] if not path.exists()]
    if missing and not (source / "config.json").is_file():  # written last
        shutil.rmtree(source, ignore_errors=True)
        write_random(source, SHAPES[shape], fp8=shape in LARGE, degrees_of_freedom=HEAVY_TAILS)
    if form.ours is not None and weights.ours in missing:
        convert(source, weights.ours, form.ours)
    if weights.theirs in missing:
        convert_to_gguf(source, weights.theirs, form.theirs)
    if shape in LARGE and form.ours is not None:
        shutil.rmtree(source, ignore_errors=True)
    return weights


def warm(path: Path) -> int:
    """Read all there is, so that no load waits for the disk; returns how many bytes these are."""
    total = 0
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as opened:
                while some := opened.read(1 << 24):
                    total += len(some)
    return total


def begin(worker: Worker, line: Line, *, turns: int, **tuning: Any) -> None:
    kind = {"depth": line.depth, "requests": line.requests, "is_prefill": line.is_prefill}
    worker.ask("begin", line=line.name, turns=turns if line.goes_on else 1, **kind, **tuning)


def tried(line: Line) -> Line:
    """A line on which llama.cpp's settings differ as on `line`, in less time."""
    return replace(line, depth=min(line.depth, TRIED_DEPTH if line.requests == 1 else 1))


def best_tunings(path: Path, lines: Iterable[Line], *, threads: int, vocab_size: int) -> dict[str, dict[str, Any]]:
    """llama.cpp's fastest settings for each line, by a turn of each after one that warms up.

    Micro-batches are tried with the better flash attention, where more is computed at once than the smallest holds.
    """
    best: dict[str, tuple[float, dict[str, Any]]] = {}
    for repack in (False, True):
        with Worker("peer_llama.py", path, threads=threads, repack=repack) as theirs:
            seconds_of(theirs, LINES["decode"], vocab_size=vocab_size)
            for line in map(tried, lines):
                seconds = partial(seconds_of, theirs, line, vocab_size=vocab_size)
                found = [(seconds(**tuning), tuning) for tuning in ({"flash": False}, {"flash": True})]
                _, better = min(found, key=itemgetter(0))
                others = [size for size in MICRO_BATCHES if line.is_prefill and line.depth > min(size, 512)]
                found += [(seconds(**tuning), tuning) for size in others if (tuning := better | {"micro_batch": size})]
                shortest, tuning = min(found, key=itemgetter(0))
                if line.name not in best or shortest < best[line.name][0]:
                    best[line.name] = shortest, {"micro_batch": 512} | tuning | {"repack": repack}
    return {name: tuning for name, (_, tuning) in best.items()}


def peer(name: str, weights: Weights, *, threads: int, repack: bool) -> Worker:
    """The other side; `repack` is a setting of llama.cpp."""
    if name == "transformers":
        return Worker("peer_transformers.py", weights.source, threads=threads)
    return Worker("peer_llama.py", weights.theirs, threads=threads, repack=repack)


def seconds_of(worker: Worker, line: Line, *, vocab_size: int, **tuning: Any) -> float:
    begin(worker, line, turns=1, **tuning)
    seconds = worker.ask("turn", prompts=next(random_prompts(line, vocab_size)))
    worker.ask("end")
    return seconds


def compare(
    ours: Worker,
    theirs: Worker,
    line: Line,
    tuning: dict[str, Any],
    *,
    pairs: int,
    vocab_size: int,
    peaks: Peaks,
    is_fast: bool,
) -> Result:
    drawn = random_prompts(line, vocab_size)
    begin(ours, line, turns=pairs + 1)
    begin(theirs, line, turns=pairs + 1, **{name: value for name, value in tuning.items() if name != "repack"})
    first = next(drawn)
    if line.is_prefill:  # minutes, where a prompt is long
        first = [prompt[:TRIED_DEPTH] for prompt in first]
    warming = []
    for worker in (ours, theirs):  # pages are read, caches are warm
        began = perf_counter()
        worker.ask("turn", prompts=first)
        warming.append(perf_counter() - began)
    seconds = []
    for _ in range(pairs):
        prompts = next(drawn)
        seconds.append((ours.ask("turn", prompts=prompts), theirs.ask("turn", prompts=prompts)))
    memory = ours.memory(), theirs.memory()
    weight_bytes, cache_bytes, flops = ours.ask("taken")
    for worker in (ours, theirs):
        worker.ask("end")
    ratio, low, high = spread([other / mine for mine, other in seconds])
    mine, other = (line.tokens_a_turn / median(side) for side in zip(*seconds, strict=True))
    _, flops_per_second = peaks.of_products(is_fast=is_fast)
    share = mine * max((weight_bytes + cache_bytes) / peaks.read_bytes_per_second, flops / flops_per_second)
    return Result(line.name, mine, other, ratio, low, high, share, *memory, tuning, (warming[0], warming[1]))


def kl_to_float32(weights: Weights, form: Format, *, threads: int, vocab_size: int) -> dict[str, float]:
    """The mean KL divergence, in nats a token, of what each side computes from what the drawn weights say exactly."""
    draw = random.Random("quality")
    count, length = QUALITY_PROMPTS
    prompts = [[draw.randrange(vocab_size) for _ in range(length)] for _ in range(count)]
    sides = {
        "float32": ("peer_gorae.py", weights.source, {"mode": "exact"}),
        "gorae": ("peer_gorae.py", weights.ours, {"mode": form.mode}),
        "llama.cpp": ("peer_llama.py", weights.theirs, {"repack": False}),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, (program, path, options) in sides.items():
            with Worker(program, path, threads=threads, **options) as side:
                side.ask("logits", prompts=prompts, file=f"{folder}/{name}.npy")
        logits = {name: np.load(f"{folder}/{name}.npy") for name in sides}
    return {name: mean_kl(logits["float32"], logits[name]) for name in ("gorae", "llama.cpp")}


def mean_kl(exact: np.ndarray, other: np.ndarray) -> float:
    """KL(exact ‖ other) of the softmax of each row, in the mean."""
    true, found = (torch.from_numpy(one).double().log_softmax(-1) for one in (exact, other))
    return (true.exp() * (true - found)).sum(-1).mean().item()


def print_result(found: Result, line: Line) -> None:
    told = f"{found.ratio:>6.2f}x  {found.low:.2f}-{found.high:.2f}  {found.share:>4.0%}"
    memory = " ".join(
        f"{held.anonymous / 1e9:.2f}+{(held.proportional - held.anonymous) / 1e9:.2f}"
        for held in (found.gorae_memory, found.other_memory)
    )
    print(f"{found.line:<16} {found.gorae:>9.1f} {found.other:>12.1f} {told}  {memory}  {found.tuning}", flush=True)
    if line.goes_on:
        mine, other = found.first_seconds
        print(f"{'':<16} behind {line.depth} tokens, read once in {mine:.0f} s beside {other:.0f} s", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="v2-small")
    parser.add_argument("--bits", choices=FORMATS, default="4", help="of the weights (default: 4)")
    parser.add_argument("--beside", choices=["llama.cpp", "transformers"], default="llama.cpp")
    parser.add_argument("--folder", type=Path, default=Path("models/bench"), help="where weights are kept")
    parser.add_argument("--only", choices=LINES, action="append", help="one line of the table; may be given again")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quality", action="store_true", help="also what each side loses of what float32 says")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    form, vocab_size = FORMATS[args.bits], SHAPES[args.shape]["vocab_size"]
    weights = prepare(args.folder, args.shape, form)
    if (args.quality or args.beside == "transformers") and not weights.source.is_dir():
        parser.error(f"this needs what was drawn, and of {args.shape} that is removed; take another shape")
    other = weights.source if args.beside == "transformers" else weights.theirs
    sizes = {"gorae": warm(weights.ours), args.beside: warm(other)}
    torch.set_num_threads(args.threads)
    peaks = measure_peaks()
    rates = f"{peaks.read_bytes_per_second / 1e9:.1f} GB/s, {peaks.flops_per_second / 1e9:.0f} GFLOP/s"
    rates += f", int8 {peaks.int8_per_second / 1e9:.0f} GOP/s"
    print(f"{peaks.processor}, {peaks.threads} threads, kernels {peaks.kernels}: {rates}")
    beside = f"llama.cpp, {form.theirs}" if args.beside == "llama.cpp" else "transformers, float32"
    print(f"{args.shape}, bits {args.bits}: {form.ours or 'stored'} in {form.mode} mode beside {beside}")
    lines = [LINES[name] for name in args.only or LINES]
    tuned: dict[str, dict[str, Any]] = {line.name: {} for line in lines}
    if args.beside == "llama.cpp":
        tuned = best_tunings(weights.theirs, lines, threads=args.threads, vocab_size=vocab_size)
    results: list[Result] = []
    load_seconds: dict[str, list[float]] = {"gorae": [], args.beside: []}
    columns = "  ratio  quartiles share  GB own+files twice  the other at its best of"
    print(f"{'tokens/s':<16} {'gorae':>9} {args.beside:>12} {columns}")
    with Worker("peer_gorae.py", weights.ours, threads=args.threads, mode=form.mode) as ours:
        load_seconds["gorae"].append(ours.load_seconds)
        for repack in (False, True):
            alike = [line for line in lines if tuned[line.name].get("repack", False) == repack]
            if not alike:
                continue
            with peer(args.beside, weights, threads=args.threads, repack=repack) as theirs:
                load_seconds[args.beside].append(theirs.load_seconds)
                for line in alike:
                    options = {"pairs": args.pairs, "vocab_size": vocab_size, "peaks": peaks}
                    is_fast = form.mode == "fast"
                    results.append(compare(ours, theirs, line, tuned[line.name], is_fast=is_fast, **options))
                    print_result(results[-1], line)
    told: dict[str, Any] = {"shape": args.shape, "bits": args.bits, "format": form, "peaks": asdict(peaks)}
    told |= {"lines": [asdict(one) for one in results], "load_seconds": load_seconds, "file_bytes": sizes}
    for side, size in sizes.items():
        print(f"{side:<16} files {size / 1e9:.2f} GB, load to the first token {min(load_seconds[side]):.2f} s")
    if args.quality:
        told["kl"] = kl_to_float32(weights, form, threads=args.threads, vocab_size=vocab_size)
        for side, lost in told["kl"].items():
            print(f"{side:<16} KL to float32 {lost:.3g} nats a token, in {sizes[side] / 1e9:.2f} GB")
    if args.json:
        args.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

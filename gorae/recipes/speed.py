"""What share of a machine the engine reaches with a model: what the machine gives is measured, then line by line.

Nouns: Peaks, what the machine gives; Speed, one line of the table; SpeedReport, all of it. A step that reads much for
each multiply-add can not be faster than memory, any other not faster than its multiply-adds: of the two shares the
larger one says how near the limit it is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from gorae.checkpoint import Mode, load
from gorae.config import CacheType, Parameters, cache_bytes_per_token, count_parameters, forward_flops
from gorae.engine import DECODED, LINES, Engine, Line, Trial, obstacle, random_prompts
from gorae.kernels import kernels_in_use, multiply_add, multiply_add_bytes
from gorae.model import weight_bytes_read
from gorae.observe import HeldMemory, held_memory, memory_bytes, processor_name
from gorae.recipes.machine import current_commit

MOST_READ = 1 << 30  # bytes; far more than the caches hold


@dataclass(frozen=True)
class Peaks:
    """What this machine was seen to reach with all threads and nothing else to do."""

    processor: str
    threads: int
    kernels: str
    read_bytes_per_second: float
    flops_per_second: float  # float32
    int8_per_second: float  # the same with integers of 8 bits

    def of_products(self, *, is_fast: bool) -> tuple[str, float]:
        """What the multiply-adds of a mode are held against, by name: most of fast mode's are of integers."""
        return ("int8", self.int8_per_second) if is_fast else ("float32", self.flops_per_second)


@dataclass(frozen=True)
class Speed:
    """Tokens a second of one line, in the median of its turns, and what a token takes by arithmetic."""

    line: str
    tokens_per_second: float
    lowest: float
    highest: float
    weight_bytes_per_token: float
    cache_bytes_per_token: float
    flops_per_token: float
    share_of_reading: float
    share_of_flops: float
    arithmetic: str  # what these FLOPs are held against: float32, or int8 in fast mode

    @property
    def share(self) -> float:
        return max(self.share_of_reading, self.share_of_flops)

    @property
    def limit(self) -> str:
        return "memory" if self.share == self.share_of_reading else self.arithmetic


@dataclass(frozen=True)
class SpeedReport:
    """`left_out` says of every line that was not timed why; `memory` is None where the system does not tell it."""

    model: str
    mode: str
    commit: str | None
    parameters: Parameters
    peaks: Peaks
    load_seconds: float
    speeds: list[Speed]
    left_out: dict[str, str]
    memory: HeldMemory | None


def measure_speed(
    path: Path,
    *,
    mode: Mode | None = None,
    only: Sequence[str] = (),
    turns: int = 3,
    cache_type: CacheType | None = None,
    tell: Callable[[Peaks | Speed], None] = lambda _: None,
) -> SpeedReport:
    """Time the engine on `path`, line by line, or on those named in `only`; `tell` hears of every figure as it comes.

    `cache_type` is the engine's. Raises ValueError for lines that are not there, and what `load` raises.
    """
    for name in only:
        if name not in LINES:
            raise ValueError(f"there is no line {name!r}; choose from {', '.join(map(repr, LINES))}")
    tell(peaks := measure_peaks())
    began = perf_counter()
    model = load(path, mode)
    load_seconds = perf_counter() - began
    engine = Engine(model, prefix_cache=False, cache_type=cache_type)
    speeds: list[Speed] = []
    left_out: dict[str, str] = {}
    for line in (LINES[name] for name in only or LINES):
        if (reason := obstacle(engine, line, turns=turns + 1)) is not None:
            left_out[line.name] = reason
            continue
        tell(speed := time_line(engine, line, peaks, turns=turns))
        speeds.append(speed)
    found: Mode = "fast" if model.network.is_fast else "exact"
    parameters = count_parameters(model.config)
    return SpeedReport(
        str(path), found, current_commit(), parameters, peaks, load_seconds, speeds, left_out, held_memory()
    )


def measure_peaks(seconds: float = 1.0) -> Peaks:
    """The best of what reading memory and multiplying reach again and again for so long, each."""
    numbers = torch.ones(min(MOST_READ, memory_bytes()[0] // 4) // 4)

    def read() -> float:
        numbers.sum()
        return numbers.nbytes

    rates = (best_rate(work, seconds) for work in (read, multiply_add, multiply_add_bytes))
    return Peaks(processor_name(), torch.get_num_threads(), kernels_in_use(), *rates)


def best_rate(work: Callable[[], float], seconds: float) -> float:
    """The most that `work` does a second, of calls that fill `seconds`; it returns how much it has done."""
    best, start = 0.0, perf_counter()
    while not best or perf_counter() - start < seconds:
        began = perf_counter()
        done = work()
        best = max(best, done / (perf_counter() - began))
    return best


def time_line(engine: Engine, line: Line, peaks: Peaks, *, turns: int) -> Speed:
    """The speed of `turns` turns after one that warms up."""
    trial, prompts = Trial(engine, line), random_prompts(line, engine.config.vocab_size)
    trial.turn(next(prompts))
    rates = [line.tokens_a_turn / trial.turn(next(prompts)) for _ in range(turns)]
    engine.clear()
    middle = median(rates)
    arithmetic, flops_per_second = peaks.of_products(is_fast=engine.runner.network.is_fast)
    weights, cache, flops = taken_per_token(engine, line)
    return Speed(
        line.name,
        middle,
        min(rates),
        max(rates),
        weights,
        cache,
        flops,
        middle * (weights + cache) / peaks.read_bytes_per_second,
        middle * flops / flops_per_second,
        arithmetic,
    )


def taken_per_token(engine: Engine, line: Line) -> tuple[float, float, float]:
    """Bytes of weights and of cache that a token of a line has read for it, and its FLOPs."""
    network, config, steps = engine.runner.network, engine.config, list(steps_of(line, engine.prefill_tokens))
    num_tokens = sum(tokens for tokens, _, _ in steps)
    weights = sum(weight_bytes_read(network, tokens) for tokens, _, _ in steps)
    held = cache_bytes_per_token(config, is_fast=network.is_fast, cache_type=engine.runner.cache_type)
    read = held * sum(requests * context for _, requests, context in steps)
    flops = sum(forward_flops(config, tokens, context=context) for tokens, _, context in steps)
    return weights / num_tokens, read / num_tokens, flops / num_tokens


def steps_of(line: Line, prefill_tokens: int) -> Iterator[tuple[int, int, float]]:
    """What each step of a turn computes: tokens, sequences whose cache is read, and keys that a token attends to."""
    if line.is_prefill:
        for start in range(0, line.depth, prefill_tokens):
            tokens = min(prefill_tokens, line.depth - start)
            yield tokens, line.requests, start + tokens / 2
    else:
        yield line.requests, line.requests, line.depth + DECODED / 2

"""How fast an engine is, line by line: prompts of random tokens are read or continued, and a turn's tokens counted.

Nouns: Line, what is timed; Trial, an engine at work on a line, turn by turn. Knows no other engine and no machine.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

from gorae.engine.engine import Engine
from gorae.engine.request import SamplingParams
from gorae.kernels import TILE_KEYS, whole_pages

DECODED = 24  # tokens a turn adds to every request
SHORT_PROMPT = 16  # tokens: behind longer prompts the next turn goes on, since reading them again would take long


@dataclass(frozen=True)
class Line:
    """What is timed: reading `requests` prompts of `depth` tokens, or else the tokens that follow them."""

    name: str
    depth: int
    requests: int = 1
    is_prefill: bool = False

    @property
    def tokens_a_turn(self) -> int:
        return self.requests * (self.depth if self.is_prefill else DECODED)

    @property
    def goes_on(self) -> bool:
        """Whether a turn continues where the one before ended."""
        return not self.is_prefill and self.depth > SHORT_PROMPT


LINES = {
    line.name: line
    for line in (
        Line("prefill 512", 512, is_prefill=True),
        Line("prefill 4096", 4096, is_prefill=True),
        Line("prefill 16384", 16384, is_prefill=True),
        Line("decode", 8),
        Line("decode at 2048", 2048),
        Line("decode at 8192", 8192),
        Line("decode at 16384", 16384),
        Line("8 at once", SHORT_PROMPT, requests=8),
        Line("16 at once", SHORT_PROMPT, requests=16),
    )
}


def random_prompts(line: Line, vocab_size: int) -> Iterator[list[list[int]]]:
    """Prompts for turn after turn, all distinct, the same ones in every run."""
    draw = random.Random(line.name)
    while True:
        yield [[draw.randrange(vocab_size) for _ in range(line.depth)] for _ in range(line.requests)]


def obstacle(engine: Engine, line: Line, *, turns: int) -> str | None:
    """Why an engine can not be timed on a line for so many turns, in words; None if it can."""
    num_tokens = line.depth + 1 + DECODED * (turns if line.goes_on else 1)
    if num_tokens > engine.config.max_positions:
        return f"takes {num_tokens} tokens and the model has {engine.config.max_positions} positions"
    needed = line.requests * whole_pages(num_tokens + TILE_KEYS)
    if needed > engine.cache_tokens:
        return f"takes a cache of {needed} tokens and the memory here has room for {engine.cache_tokens}"
    if line.requests > engine.max_batch:
        return f"is of {line.requests} requests and the engine runs {engine.max_batch} at a time"
    return None


class Trial:
    """An engine at work on one line. It should keep no prefixes; temperature 1, greedy sampling being less work."""

    def __init__(self, engine: Engine, line: Line) -> None:
        self.engine, self.line = engine, line
        self.params = SamplingParams(max_tokens=engine.max_positions, ignore_eos=True, seed=0)

    def turn(self, prompts: list[list[int]]) -> float:
        """The seconds of one turn; prompts behind which a turn goes on are looked at in the first turn only."""
        seconds = 0.0 if self.engine.has_work else self.read(prompts)
        if not self.line.is_prefill:
            began = perf_counter()
            for _ in range(DECODED):
                self.engine.step()
            seconds = perf_counter() - began
        if not self.line.goes_on:
            self.engine.clear()
        return seconds

    def read(self, prompts: list[list[int]]) -> float:
        """The seconds from these prompts to a first token of each."""
        began = perf_counter()
        for prompt in prompts:
            self.engine.add(prompt, self.params)
        while len(self.engine.step()) < len(prompts):
            pass
        return perf_counter() - began

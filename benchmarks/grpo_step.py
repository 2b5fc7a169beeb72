"""The step of GRPO that both sides of benchmarks/rl.py take: its sizes, its prompts, what its replies earn.

The rule is dapo's with advantages that are not scaled, which both sides compute alike; AdamW with TRL's constants.
Imports neither Gorae nor TRL.
"""

import random
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

LEARNING_RATE = 1e-5
BETAS = (0.9, 0.999)
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class Work:
    """A step: `prompts` prompts, `samples` replies to each, all of them `tokens` long."""

    prompts: int
    samples: int
    tokens: int

    @property
    def replies(self) -> int:
        return self.prompts * self.samples


@cache
def words() -> list[str]:
    """What prompts are made of, and the text that a tokenizer learns from."""
    draw = random.Random("words")
    return ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 8))) for _ in range(6000)]


def prompts_of(turn: int, work: Work) -> list[str]:
    """The prompts of a turn, of 20 to 40 words each."""
    draw, known = random.Random(turn), words()
    return [" ".join(draw.choices(known, k=draw.randint(20, 40))) for _ in range(work.prompts)]


def reward_of(token_ids: Sequence[int]) -> float:
    """A number from 0 to 1 that follows from the tokens, so that no group is dead and no grader costs time."""
    return zlib.crc32(array("q", token_ids).tobytes()) / 2**32

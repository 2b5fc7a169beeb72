"""What rollouts are sampled by: an engine, or whatever does as engines do."""

from collections.abc import Sequence
from typing import Protocol

from gorae.engine import Output, SamplingParams
from gorae.text import Tokenizer


class Sampler(Protocol):
    """Continues prompts, each with its own parameters; prompt and reply are at most `max_positions` tokens."""

    @property
    def tokenizer(self) -> Tokenizer | None: ...
    @property
    def max_positions(self) -> int: ...
    def generate(self, prompts: Sequence[list[int]], params: Sequence[SamplingParams], /) -> list[Output]: ...

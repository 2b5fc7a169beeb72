"""Gorae's engine as a peer of benchmarks/serve.py."""

import numpy as np
import torch
from answer import answer

from gorae import Engine, SamplingParams, load
from gorae.engine import Line, Trial
from gorae.recipes.speed import taken_per_token


class GoraePeer:
    def __init__(self, path: str, *, threads: int, mode: str) -> None:
        torch.set_num_threads(threads)
        self.model = load(path, mode)
        self.engine = Engine(self.model, prefix_cache=False)
        self.engine.generate([[2]], SamplingParams(max_tokens=1))

    def begin(self, line: str, *, depth: int, requests: int, is_prefill: bool, turns: int) -> None:  # noqa: ARG002
        self.trial = Trial(self.engine, Line(line, depth, requests, is_prefill))

    def turn(self, prompts: list[list[int]]) -> float:
        return self.trial.turn(prompts)

    def taken(self) -> tuple[float, float, float]:
        """Bytes of weights and of cache that a token of the line reads, and its FLOPs."""
        return taken_per_token(self.engine, self.trial.line)

    def end(self) -> None:
        self.engine.clear()

    def logits(self, prompts: list[list[int]], file: str) -> None:
        """Write float32 [tokens, W] of all prompts, one after the other."""
        np.save(file, np.concatenate([self.model.logits(prompt).numpy() for prompt in prompts]))


if __name__ == "__main__":
    answer(GoraePeer)

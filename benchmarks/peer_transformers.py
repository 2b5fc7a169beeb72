"""`transformers` as a peer of benchmarks/serve.py, in float32: its products in bfloat16 are far slower on a CPU."""

import random
from time import perf_counter
from typing import Any

import torch
from answer import answer
from transformers import AutoModelForCausalLM, DynamicCache

DECODED = 24  # as in gorae.engine


class TransformersPeer:
    def __init__(self, path: str, *, threads: int) -> None:
        torch.set_num_threads(threads)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        self.begin("load", depth=1, requests=1, is_prefill=True, turns=1)
        self.turn([[2]])

    def begin(self, line: str, *, depth: int, requests: int, is_prefill: bool, turns: int) -> None:  # noqa: ARG002
        self.is_prefill, self.goes_on, self.draw = is_prefill, not is_prefill and turns > 1, random.Random(line)
        self.cache: Any = None

    @torch.inference_mode()
    def turn(self, prompts: list[list[int]]) -> float:
        """The seconds of one turn, as `gorae.engine.Trial` takes it, but that random tokens are what goes on."""
        began = perf_counter()
        if self.cache is None:
            self.cache = DynamicCache(config=self.model.config)
            self.read(prompts)
        if not self.is_prefill:
            following = [[[self.draw.randrange(self.model.config.vocab_size)] for _ in prompts] for _ in range(DECODED)]
            began = perf_counter()
            for tokens in following:
                self.read(tokens)
        seconds = perf_counter() - began
        if not self.goes_on:
            self.cache = None
        return seconds

    def read(self, sequences: list[list[int]]) -> None:
        """Let every sequence go on with these tokens, and compute what follows the last of each."""
        self.model(torch.tensor(sequences), past_key_values=self.cache, use_cache=True, logits_to_keep=1)

    def end(self) -> None:
        self.cache = None


if __name__ == "__main__":
    answer(TransformersPeer)

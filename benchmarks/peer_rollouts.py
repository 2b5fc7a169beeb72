"""Rollouts of the laptop recipe's model at any commit, as a peer of benchmarks/rollouts.py.

A turn is groups of replies to equal prompts. Uses only what has been there since the recipe has. Weights are random,
and no reply ends early, so that every commit does the same work.
"""

import random
from dataclasses import replace
from inspect import signature
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace

import torch
from answer import answer

import gorae
from gorae.engine import Engine, SamplingParams
from gorae.model import Network
from gorae.posttrain.rollout import sample_rollouts
from gorae.recipes import LaptopSettings

PROMPT_TOKENS = 56  # a problem's, in the mean


class RolloutPeer:
    def __init__(self, path: str, *, threads: int, prompts: int, samples: int) -> None:
        assert Path(path) in Path(gorae.__file__).parents, f"{gorae.__file__} is not of {path}"
        torch.set_num_threads(threads)
        settings = LaptopSettings()
        config = replace(settings.teacher, num_mtp_modules=0)
        self.vocab_size, self.num_prompts, self.num_samples = config.vocab_size, prompts, samples
        known = {"max_batch": prompts * samples, "prefix_cache": False}
        options = {name: value for name, value in known.items() if name in signature(Engine).parameters}
        model = SimpleNamespace(network=Network(config, seed=0).eval(), config=config, tokenizer=None)
        self.engine = Engine(model, **options)
        self.params = SamplingParams(max_tokens=settings.rl.max_tokens, ignore_eos=True)

    def turn(self, number: int) -> float:
        """The seconds of a step's rollouts."""
        draw = random.Random(number)
        prompts = [[draw.randrange(self.vocab_size) for _ in range(PROMPT_TOKENS)] for _ in range(self.num_prompts)]
        began = perf_counter()
        rollouts = sample_rollouts(
            self.engine, prompts, lambda *_: 0.0, num_samples=self.num_samples, params=self.params, seed=number
        )
        seconds = perf_counter() - began
        assert all(len(one.reply_ids) == self.params.max_tokens for one in rollouts)
        return seconds


if __name__ == "__main__":
    answer(RolloutPeer)

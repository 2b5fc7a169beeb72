"""Gorae's step of GRPO, exact numerics on, as a peer of benchmarks/rl.py."""

from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from answer import answer
from grpo_step import BETAS, LEARNING_RATE, MAX_GRAD_NORM, Work, prompts_of, reward_of

from gorae.checkpoint import save_model
from gorae.engine import Engine, Output, SamplingParams
from gorae.posttrain import GrpoSettings, policy_batch, policy_loss, rollouts_of, sample_groups
from gorae.recipes.run import load_chat_model, set_up_process
from gorae.train import HybridOptimizer, OptimizerSettings, update


class GrpoPeer:
    def __init__(self, path: str, *, threads: int, work: dict[str, int], turns: int) -> None:
        set_up_process(threads)
        self.work = Work(**work)
        self.texts = [prompts_of(turn, self.work) for turn in range(turns)]
        self.settings = GrpoSettings(
            num_prompts=self.work.prompts,
            num_samples=self.work.samples,
            max_tokens=self.work.tokens,
            scale_rewards="none",
            optimizer=OptimizerSettings(lr=LEARNING_RATE, matrix_lr=None, betas=BETAS, max_grad_norm=MAX_GRAD_NORM),
        )
        self.model = load_chat_model(Path(path), trainable=True)
        self.engine = Engine(self.model, max_batch=self.work.replies, prefix_cache=False)
        self.params = SamplingParams(max_tokens=self.work.tokens, ignore_eos=True)
        self.optimizer = HybridOptimizer(self.model.network.named_parameters(), self.settings.optimizer)

    def sampled(self, number: int) -> list[list[Output]]:
        prompts = [self.model.tokenizer.encode(text) for text in self.texts[number]]
        return sample_groups(self.engine, prompts, num_samples=self.work.samples, params=self.params, seed=number)

    def replies(self, number: int) -> list[list[list[int]]]:
        """Prompt and reply of every rollout of a turn, as they will be sampled again until the weights move."""
        return [[one.prompt_token_ids, one.token_ids] for group in self.sampled(number) for one in group]

    def save(self, path: str) -> None:
        save_model(path, self.model.network, tokenizer=self.model.tokenizer)

    def turn(self, number: int) -> dict[str, Any]:
        """A step; the seconds of its parts, what was read and written, and how far the engine was from the trainer."""
        began = perf_counter()
        groups = self.sampled(number)
        generated = perf_counter()
        rollouts = rollouts_of(groups, [[reward_of(reply.token_ids) for reply in group] for group in groups])
        batch = policy_batch(rollouts, self.settings, pad_id=self.model.tokenizer.pad_id)
        scored = perf_counter()
        loss = update(
            self.model.network, self.optimizer, batch, partial(policy_loss, settings=self.settings), scale=1.0
        )
        trained = perf_counter()
        return {
            "generation": generated - began,
            "scoring": scored - generated,
            "training": trained - scored,
            "prompt_tokens": sum(len(one.prompt_ids) for one in rollouts),
            "reply_tokens": sum(len(one.reply_ids) for one in rollouts),
            "mismatch_kl": loss.figures["mismatch_kl"],
        }


if __name__ == "__main__":
    answer(GrpoPeer)

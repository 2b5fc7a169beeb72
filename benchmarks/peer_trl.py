"""TRL's GRPOTrainer as a peer of benchmarks/rl.py, at what was fastest of its settings on a CPU.

Its own training loop runs in a thread of its own and is held at the end of each step until the next turn. vLLM needs
CUDA, so `transformers` generates, over its cache. Without a distance from a reference and with one update a batch, TRL
takes no log-probabilities but those of the loss.
"""

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import Queue
from threading import Thread
from time import perf_counter
from typing import Any

import torch
from answer import answer
from datasets import Dataset, disable_caching
from grpo_step import BETAS, LEARNING_RATE, MAX_GRAD_NORM, Work, prompts_of, reward_of
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from gorae.train import keep_freed_memory


def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [reward_of(token_ids) for token_ids in completion_ids]


def given(replies: str, *_: Any) -> dict[str, Any]:
    """What `replies` has, as TRL takes rollouts that others sampled."""
    prompt_ids, completion_ids = zip(*json.loads(Path(replies).read_text(encoding="utf-8")), strict=True)
    return {"prompt_ids": list(prompt_ids), "completion_ids": list(completion_ids), "logprobs": None}


class Turns(TrainerCallback):
    """Holds the trainer before each step until it is asked for one, and tells when it is done."""

    def __init__(self) -> None:
        self.asked: Queue[None] = Queue()
        self.done: Queue[BaseException | None] = Queue()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.asked.get()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.done.put(None)
        self.asked.get()


class TrlPeer:
    def __init__(
        self,
        path: str,
        *,
        threads: int,
        work: dict[str, int],
        turns: int,
        experts: str = "grouped_mm",
        rows: int | None = None,
        continuous: bool = False,
        keeps_memory: bool = True,
        replies: str | None = None,
    ) -> None:
        """`rows` of a batch are trained on at once (None: all); `replies` is a file of those to take for its own."""
        torch.set_num_threads(threads)
        disable_caching()
        if keeps_memory:
            keep_freed_memory()
        self.work = Work(**work)
        rows = rows or self.work.replies
        self.out = tempfile.TemporaryDirectory()
        config = GRPOConfig(
            output_dir=self.out.name,
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            beta=0.0,
            num_iterations=1,
            loss_type="dapo",
            scale_rewards="none",
            num_generations=self.work.samples,
            max_completion_length=self.work.tokens,
            generation_kwargs={"min_new_tokens": self.work.tokens},
            use_transformers_continuous_batching=continuous,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=self.work.replies // rows,
            max_steps=turns,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            max_grad_norm=MAX_GRAD_NORM,
            shuffle_dataset=False,
            dataloader_pin_memory=False,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, experts_implementation=experts)
        self.calls, self.turns = Turns(), turns
        self.trainer = GRPOTrainer(
            model,
            reward,
            args=config,
            train_dataset=Dataset.from_dict(
                {"prompt": [text for turn in range(turns) for text in prompts_of(turn, self.work)]}
            ),
            processing_class=AutoTokenizer.from_pretrained(Path(path), padding_side="left"),
            callbacks=[self.calls],
            rollout_func=partial(given, replies) if replies else None,
        )
        self.seconds: dict[str, float] = defaultdict(float)
        for name in ("_generate", "_generate_and_score_completions"):
            setattr(self.trainer, name, self.timed(name, getattr(self.trainer, name)))
        Thread(target=self.train, daemon=True).start()

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed_call(*arguments: Any, **options: Any) -> Any:
            began = perf_counter()
            result = call(*arguments, **options)
            self.seconds[name] += perf_counter() - began
            if name == "_generate":
                prompt_ids, completion_ids = result[:2]
                self.tokens = sum(map(len, prompt_ids)), sum(map(len, completion_ids))
            return result

        return timed_call

    def train(self) -> None:
        try:
            self.trainer.train()
        except BaseException as error:
            self.calls.done.put(error)

    def turn(self, number: int) -> dict[str, Any]:
        """The step that is next, turn `number`; the seconds of its parts, what was read and written."""
        assert number == self.trainer.state.global_step, f"step {self.trainer.state.global_step} is next"
        self.seconds.clear()
        began = perf_counter()
        self.calls.asked.put(None)
        if error := self.calls.done.get():
            raise error
        seconds = perf_counter() - began
        generation, both = self.seconds["_generate"], self.seconds["_generate_and_score_completions"]
        return {
            "generation": generation,
            "scoring": both - generation,
            "training": seconds - both,
            "prompt_tokens": self.tokens[0],
            "reply_tokens": self.tokens[1],
        }

    def save(self, path: str) -> None:
        self.trainer.model.save_pretrained(path)


if __name__ == "__main__":
    answer(TrlPeer)

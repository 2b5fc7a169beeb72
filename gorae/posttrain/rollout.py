"""Rollouts: several sampled replies to each prompt, token ids in and token ids out, graded by whoever asks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gorae.engine import Engine, Output, Routings, SamplingParams


@dataclass(frozen=True)
class Rollout:
    """One reply as it was sampled: its tokens, their log-probabilities then, its reward, its prompt's number.

    reward: None where the reply could not be graded, which is no fault of the reply.
    routings: the experts that prompt and reply went to, where the parameters asked for them.
    """

    prompt_ids: list[int]
    reply_ids: list[int]
    log_probs: list[float]
    reward: float | None
    prompt: int
    finish_reason: str
    routings: Routings | None = field(default=None, compare=False)


def sample_rollouts(
    engine: Engine,
    prompts: Sequence[list[int]],
    reward: Callable[[int, Output], float | None],
    *,
    num_samples: int,
    params: SamplingParams,
    seed: int,
    first_prompt: int = 0,
) -> list[Rollout]:
    """`num_samples` replies to each prompt, prompt by prompt; `reward(prompt number, output)` grades each.

    Reply i is drawn from its own seed, so a step's rollouts follow from (weights, prompts, seed) alone. A second call
    in the same step goes on counting prompts from `first_prompt`.
    """
    numbers = [first_prompt + number for number in range(len(prompts)) for _ in range(num_samples)]
    first_place = seed * 1_000_003 + first_prompt * num_samples
    each = [replace(params, seed=first_place + place) for place in range(len(numbers))]
    outputs = engine.generate([prompts[number - first_prompt] for number in numbers], each)
    return [
        Rollout(o.prompt_token_ids, o.token_ids, o.logprobs, reward(number, o), number, o.finish_reason, o.routings)
        for number, o in zip(numbers, outputs, strict=True)
    ]


def reward_table(rollouts: Sequence[Rollout], num_samples: int) -> Tensor:
    """Rewards [P, G], NaN where there is none. Raises ValueError for a reward that is no finite number."""
    for one in rollouts:
        if one.reward is not None and not math.isfinite(one.reward):
            raise ValueError(
                f"a reply to prompt {one.prompt} has the reward {one.reward}; a reward must be a finite number, or "
                "None where the reply could not be graded"
            )
    rewards = [math.nan if one.reward is None else float(one.reward) for one in rollouts]
    return torch.tensor(rewards).view(-1, num_samples)

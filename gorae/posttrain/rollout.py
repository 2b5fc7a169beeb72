"""Rollouts: several sampled replies to each prompt, token ids in and token ids out, graded by whoever asks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gorae.engine import Output, Routings, SamplingParams
from gorae.posttrain.episode import Episode
from gorae.posttrain.sampler import Sampler
from gorae.posttrain.seeds import seed_of

CUT_OFF = ("length", "turns")  # finish reasons of a reply that came to no end of its own


@dataclass(frozen=True)
class Rollout:
    """One reply as it was sampled: its tokens, their log-probabilities then, its reward, its prompt's number.

    reward: None where the reply could not be graded, which is no fault of the reply.
    is_sampled: which of an episode's `reply_ids` the model sampled; the others are its environment's, are not learnt,
        and have no log-probability. None: all of them.
    routings: the experts that prompt and reply went to, where the parameters asked for them.
    kept_ids: of each sampled token the ids [K] it was drawn from, where that was not the whole softmax at temperature 1
        and the parameters asked for it; `log_probs` are then those it was drawn by. A single None: all ids.
    """

    prompt_ids: list[int]
    reply_ids: list[int]
    log_probs: list[float]
    reward: float | None
    prompt: int
    finish_reason: str
    routings: Routings | None = field(default=None, compare=False)
    is_sampled: Sequence[bool] | None = None
    kept_ids: Sequence[Tensor | None] | None = field(default=None, compare=False)

    @property
    def num_sampled(self) -> int:
        return len(self.log_probs)


def sample_rollouts(
    sampler: Sampler,
    prompts: Sequence[list[int]],
    reward: Callable[[int, Output], float | None],
    *,
    num_samples: int,
    params: SamplingParams,
    seed: int,
) -> list[Rollout]:
    """`num_samples` replies to each prompt, prompt by prompt; `reward(prompt number, output)` grades each."""
    groups = sample_groups(sampler, prompts, num_samples=num_samples, params=params, seed=seed)
    return rollouts_of(groups, [[reward(number, output) for output in group] for number, group in enumerate(groups)])


def sample_groups(
    sampler: Sampler,
    prompts: Sequence[list[int]],
    *,
    num_samples: int,
    params: SamplingParams,
    seed: int,
    first: int = 0,
) -> list[list[Output]]:
    """`num_samples` replies to each prompt.

    Reply i of all is drawn from its own seed, so a step's replies follow from (weights, prompts, seed) alone. `first`
    is the number of the first of these prompts, where others of the step were sampled before.
    """
    repeated = [prompt for prompt in prompts for _ in range(num_samples)]
    numbers = range(first * num_samples, first * num_samples + len(repeated))
    each = [replace(params, seed=seed_of(seed, number)) for number in numbers]
    outputs = sampler.generate(repeated, each)
    return [outputs[start : start + num_samples] for start in range(0, len(outputs), num_samples)]


def rollouts_of(
    groups: Sequence[Sequence[Output]], rewards: Sequence[Sequence[float | None]], *, first: int = 0
) -> list[Rollout]:
    """The replies of all groups with their rewards, one behind the other; `first` is the number of the first prompt."""
    return [
        Rollout(
            o.prompt_token_ids,
            o.token_ids,
            o.logprobs if o.policy is None else [one.log_prob for one in o.policy],
            reward,
            number,
            o.finish_reason,
            o.routings,
            is_sampled=o.is_sampled if isinstance(o, Episode) else None,
            kept_ids=None if o.policy is None else [one.kept_ids for one in o.policy],
        )
        for number, (group, given) in enumerate(zip(groups, rewards, strict=True), start=first)
        for o, reward in zip(group, (None if one is None else float(one) for one in given), strict=True)
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

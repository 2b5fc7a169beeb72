"""Rollouts: several sampled replies to each prompt, token ids in and token ids out, graded by whoever asks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

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
) -> list[Rollout]:
    """`num_samples` replies to each prompt, prompt by prompt; `reward(prompt number, output)` grades each."""
    groups = sample_groups(engine, prompts, num_samples=num_samples, params=params, seed=seed)
    return rollouts_of(groups, [[reward(number, output) for output in group] for number, group in enumerate(groups)])


def sample_groups(
    engine: Engine, prompts: Sequence[list[int]], *, num_samples: int, params: SamplingParams, seed: int
) -> list[list[Output]]:
    """`num_samples` replies to each prompt.

    Reply i of all is drawn from its own seed, so a step's replies follow from (weights, prompts, seed) alone.
    """
    repeated = [prompt for prompt in prompts for _ in range(num_samples)]
    each = [replace(params, seed=seed * 1_000_003 + place) for place in range(len(repeated))]
    outputs = engine.generate(repeated, each)
    return [outputs[first : first + num_samples] for first in range(0, len(outputs), num_samples)]


def rollouts_of(groups: Sequence[Sequence[Output]], rewards: Sequence[Sequence[float | None]]) -> list[Rollout]:
    """The replies of all groups with their rewards, one behind the other."""
    return [
        Rollout(o.prompt_token_ids, o.token_ids, o.logprobs, reward, number, o.finish_reason, o.routings)
        for number, (group, given) in enumerate(zip(groups, rewards, strict=True))
        for o, reward in zip(group, given, strict=True)
    ]

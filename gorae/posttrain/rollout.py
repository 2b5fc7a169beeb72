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
    """`num_samples` replies to each prompt, prompt by prompt; `reward(prompt number, output)` grades each.

    Reply i is drawn from its own seed, so a step's rollouts follow from (weights, prompts, seed) alone.
    """
    numbers = [number for number in range(len(prompts)) for _ in range(num_samples)]
    each = [replace(params, seed=seed * 1_000_003 + place) for place in range(len(numbers))]
    outputs = engine.generate([prompts[number] for number in numbers], each)
    return [
        Rollout(o.prompt_token_ids, o.token_ids, o.logprobs, reward(number, o), number, o.finish_reason, o.routings)
        for number, o in zip(numbers, outputs, strict=True)
    ]

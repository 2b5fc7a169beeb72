"""Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): where all replies to a prompt earned the same, take another.

Knows no engine and no task: it is handed a function that samples.
"""

from collections.abc import Callable

from gorae.posttrain.advantage import is_live
from gorae.posttrain.rollout import Rollout, reward_table


def sample_until_live(
    sample: Callable[[int, int], list[Rollout]], *, num_prompts: int, num_samples: int, num_refills: int
) -> list[Rollout]:
    """Rollouts of `num_prompts` prompts, and in up to `num_refills` rounds of as many more as had nothing to teach.

    `sample(first, n)` yields the rollouts of n prompts from the first-th on, `num_samples` each. All of them are
    returned, those of dead groups too.
    """
    rollouts = sample(0, num_prompts)
    for _ in range(num_refills):
        rewards_PG = reward_table(rollouts, num_samples)
        num_missing = num_prompts - int(is_live(rewards_PG).sum())
        if not num_missing:
            break
        rollouts = rollouts + sample(len(rewards_PG), num_missing)
    return rollouts

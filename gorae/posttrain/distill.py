"""Distillation as R1 did it: sample the teacher, keep what is right, let the student imitate it (arXiv 2501.12948)."""

from collections.abc import Sequence

from gorae.posttrain.rollout import Rollout
from gorae.posttrain.sft import Example


def keep_correct(rollouts: Sequence[Rollout], *, min_reward: float) -> list[Example]:
    """The distinct replies that earned at least `min_reward`, as examples, in the order they were sampled.

    Raises ValueError for an episode, whose tokens are not all the model's.
    """
    if any(one.is_sampled is not None for one in rollouts):
        raise ValueError("an episode has tokens of its environment, which are not to be imitated; distil on policy")
    kept = {
        (tuple(one.prompt_ids), tuple(one.reply_ids)): Example(one.prompt_ids, one.reply_ids)
        for one in rollouts
        if one.reward is not None and one.reward >= min_reward
    }
    return list(kept.values())

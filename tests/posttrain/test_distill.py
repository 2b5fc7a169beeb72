from dataclasses import replace

import pytest

from gorae.posttrain import Example, Rollout, keep_correct


def rollout(prompt: int, reply: list[int], reward: float | None) -> Rollout:
    return Rollout([prompt], reply, [-1.0] * len(reply), reward, prompt=prompt, finish_reason="stop")


def test_the_distinct_correct_replies_are_kept_in_the_order_they_were_sampled():
    rollouts = [
        rollout(1, [9], 1.0),
        rollout(1, [5], 0.1),
        rollout(1, [7], 1.0),
        rollout(1, [9], 1.0),
        rollout(2, [9], 1.0),
        rollout(2, [4], 0.9),
    ]
    assert keep_correct(rollouts, min_reward=1.0) == [Example([1], [9]), Example([1], [7]), Example([2], [9])]
    assert keep_correct(rollouts, min_reward=0.9)[-1] == Example([2], [4])


def test_nothing_correct_leaves_nothing():
    assert keep_correct([rollout(1, [5], 0.1)], min_reward=1.0) == []
    assert keep_correct([rollout(1, [5], None)], min_reward=0.0) == []


def test_episodes_are_refused_since_their_environments_would_be_imitated():
    episode = replace(rollout(1, [9, 3], 1.0), is_sampled=[True, False])
    with pytest.raises(ValueError, match="an episode has tokens of its environment"):
        keep_correct([rollout(1, [9], 1.0), episode], min_reward=1.0)

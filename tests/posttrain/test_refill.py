"""Dynamic sampling: what is drawn in the place of groups that teach nothing, and what becomes of those."""

from functools import partial

import pytest

from gorae.engine import Engine, SamplingParams
from gorae.posttrain import GrpoSettings, Rollout, policy_batch, rollouts_of, sample_groups, sample_until_live

PARAMS = SamplingParams(max_tokens=9)


def sampler(live: set[int], asked: list[tuple[int, int]]):
    """Two replies to each prompt, of unequal reward where the prompt's number is among the live ones."""

    def sample(first: int, count: int) -> list[Rollout]:
        asked.append((first, count))
        return [
            Rollout([3], [5], [-1.0], float(place) if number in live else 0.5, prompt=number, finish_reason="stop")
            for number in range(first, first + count)
            for place in range(2)
        ]

    return sample


@pytest.mark.parametrize(
    ("live", "num_refills", "asked"),
    [
        (range(99), 5, [(0, 4)]),
        ({0, 2, 3, 4}, 5, [(0, 4), (4, 1)]),
        ({1, 4, 6, 8}, 5, [(0, 4), (4, 3), (7, 1), (8, 1)]),
        ({1, 4, 6, 8}, 2, [(0, 4), (4, 3), (7, 1)]),
        ({1, 4, 6, 8}, 0, [(0, 4)]),
        (set(), 3, [(0, 4), (4, 4), (8, 4), (12, 4)]),
    ],
)
def test_as_many_prompts_are_drawn_as_groups_were_dead_until_none_is_missing_or_the_rounds_are_used(
    live, num_refills, asked
):
    found = []
    sample = sampler(set(live), found)
    rollouts = sample_until_live(sample, num_prompts=4, num_samples=2, num_refills=num_refills)
    assert found == asked
    assert [one.prompt for one in rollouts[::2]] == list(range(sum(asked[-1]))), "dead groups are kept for the figures"


def test_replies_without_a_grade_are_not_taken_for_a_live_group():
    asked = []

    def sample(first: int, count: int) -> list[Rollout]:
        asked.append((first, count))
        rewards = (None, 1.0) if first == 0 else (0.0, 1.0)
        return [Rollout([3], [5], [-1.0], reward, prompt=first, finish_reason="stop") for reward in rewards]

    sample_until_live(sample, num_prompts=1, num_samples=2, num_refills=3)
    assert asked == [(0, 1), (1, 1)]


@pytest.mark.parametrize(("num_refills", "divisor"), [(0, 8), (1, 4)])
def test_dead_groups_do_not_count_where_a_batch_is_refilled(num_refills, divisor):
    rollouts = sampler({1, 3}, [])(0, 4)
    settings = GrpoSettings(num_prompts=4, num_samples=2, num_refills=num_refills)
    batch = policy_batch(rollouts, settings, pad_id=2)
    assert batch.divisor == divisor
    assert (batch.figures["num_prompts"], batch.figures["frac_reward_zero_std"]) == (4, 0.5)
    assert batch.figures["reward"] == 0.5, "of all replies, so that it is the policy's own"


@pytest.fixture
def sample_from(model, prompts):
    """Four replies to each of some prompts, of which those to the second earn the same."""

    def sample_from(first: int, count: int, *, seed: int = 0) -> list[Rollout]:
        some = prompts[first : first + count]
        groups = sample_groups(Engine(model), some, num_samples=4, params=PARAMS, seed=seed, first=first)
        rewards = [
            [float(number != 1 and output.token_ids[0] % 2) for output in group]
            for number, group in enumerate(groups, first)
        ]
        return rollouts_of(groups, rewards, first=first)

    return sample_from


def test_prompts_sampled_in_a_second_call_get_the_replies_and_numbers_of_one_call(sample_from):
    assert sample_from(0, 2) + sample_from(2, 1) == sample_from(0, 3)


def test_a_refilled_batch_follows_from_weights_prompts_and_seed_alone(sample_from):
    def batch(seed: int) -> list[Rollout]:
        return sample_until_live(partial(sample_from, seed=seed), num_prompts=2, num_samples=4, num_refills=3)

    assert batch(0) == batch(0)
    assert len(batch(0)) > 8
    assert [one.reply_ids for one in batch(1)] != [one.reply_ids for one in batch(0)]

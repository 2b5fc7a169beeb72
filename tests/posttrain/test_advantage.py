import math
import statistics

import pytest
import torch

from gorae.posttrain import group_advantages


@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
def test_advantages_are_deviations_from_the_mean_of_the_group_in_the_deviations_asked_for(scale_rewards):
    rewards_PG = torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    advantages_PG = group_advantages(rewards_PG, scale_rewards=scale_rewards)
    whole = statistics.pstdev(rewards_PG.flatten().tolist())
    for rewards, advantages in zip(rewards_PG.tolist(), advantages_PG.tolist(), strict=True):
        unit = {"group": statistics.pstdev(rewards), "batch": whole, "none": 1.0}[scale_rewards]
        assert advantages == pytest.approx([(one - statistics.fmean(rewards)) / unit for one in rewards], abs=1e-5)


@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
@pytest.mark.parametrize("reward", [0.0, 0.1, 1.0, 1 / 3, 1e4 / 3])
@pytest.mark.parametrize("num_samples", [1, 3, 7, 16])
def test_equal_rewards_teach_nothing_at_all(reward, num_samples, scale_rewards):
    advantages_PG = group_advantages(torch.full((2, num_samples), reward), scale_rewards=scale_rewards)
    assert advantages_PG.eq(0).all()


def test_a_group_is_judged_by_itself():
    first = torch.tensor([[0.0, 1.0, 1.0, 0.1]])
    together = group_advantages(torch.cat((first, torch.tensor([[5.0, 9.0, 5.0, 5.0]]))))
    assert torch.equal(together[:1], group_advantages(first))


def test_scaling_forgets_the_size_of_rewards_and_its_absence_does_not():
    rewards_PG = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    torch.testing.assert_close(group_advantages(9 * rewards_PG), group_advantages(rewards_PG))
    unscaled = group_advantages(rewards_PG, scale_rewards="none")
    torch.testing.assert_close(group_advantages(9 * rewards_PG, scale_rewards="none"), 9 * unscaled)


@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
def test_replies_without_a_grade_change_nothing_for_their_siblings(scale_rewards):
    nan = math.nan
    graded_PG = torch.tensor([[0.0, 1.0, 0.5], [3.0, 0.25, 0.25]])
    holed_PG = torch.tensor([[0.0, nan, 1.0, 0.5, nan], [nan, 3.0, 0.25, nan, 0.25]])
    advantages_PG = group_advantages(holed_PG, scale_rewards=scale_rewards)
    expected_PG = group_advantages(graded_PG, scale_rewards=scale_rewards)
    assert torch.equal(advantages_PG[~holed_PG.isnan()].view(2, 3), expected_PG)
    assert advantages_PG[holed_PG.isnan()].eq(0).all()


@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
def test_a_group_with_fewer_than_two_grades_teaches_nothing(scale_rewards):
    nan = math.nan
    rewards_PG = torch.tensor([[nan, nan, nan], [nan, 5.0, nan], [0.0, 1.0, nan]])
    advantages_PG = group_advantages(rewards_PG, scale_rewards=scale_rewards)
    assert advantages_PG[:2].eq(0).all()
    assert advantages_PG[2].ne(0).tolist() == [True, True, False]

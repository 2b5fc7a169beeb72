"""How much better a reply was than its siblings (arXiv 2402.03300, section 4.1.2).

Rewards stand in a row a prompt, a column a reply; NaN is a reply that could not be graded.
"""

import torch
from torch import Tensor

SCALES = ("group", "batch", "none")


def group_advantages(rewards_PG: Tensor, *, scale_rewards: str = "group") -> Tensor:
    """(reward - mean of its group), over the deviation of the "group", of all rewards ("batch"), or as it is ("none").

    A group of equal rewards, or with fewer than two graded replies, teaches nothing: its advantages are 0. So is the
    advantage of a reply that was not graded.
    """
    deviations_P1 = deviation(rewards_PG, dim=(1,))
    teaches_PG = (deviations_P1 > 1e-6) & ~rewards_PG.isnan()
    centred_PG = torch.where(teaches_PG, rewards_PG - rewards_PG.nanmean(dim=1, keepdim=True), 0.0)
    if scale_rewards == "none":
        return centred_PG
    unit = deviations_P1 if scale_rewards == "group" else deviation(rewards_PG, dim=(0, 1))
    return centred_PG / unit.clamp(min=1e-6)


def deviation(rewards_PG: Tensor, *, dim: tuple[int, ...]) -> Tensor:
    """The standard deviation (over n, not n - 1) of the rewards there are, with `dim` kept; 0 for fewer than two.

    In float64, where the mean of equal float32 numbers is that number, so that they have no deviation at all.
    """
    rewards = rewards_PG.double()
    squares = (rewards - rewards.nanmean(dim, keepdim=True)).square()
    return squares.nanmean(dim, keepdim=True).nan_to_num().sqrt().to(rewards_PG.dtype)

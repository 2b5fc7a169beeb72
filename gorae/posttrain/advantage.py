"""How much better a reply was than its siblings (arXiv 2402.03300, section 4.1.2).

Rewards stand in a row a prompt, a column a reply; NaN is a reply that could not be graded.
"""

import torch
from torch import Tensor

SCALES = ("group", "batch", "none")
LEAST_DEVIATION = 1e-6  # of rewards that are not equal


def group_advantages(rewards_PG: Tensor, *, scale_rewards: str = "group") -> Tensor:
    """(reward - mean of its group), over the deviation of the "group", of all rewards ("batch"), or as it is ("none").

    A group of equal rewards, or with fewer than two graded replies, teaches nothing: its advantages are 0. So is the
    advantage of a reply that was not graded. Raises ValueError for another scale.
    """
    if scale_rewards not in SCALES:
        raise ValueError(f"scale_rewards={scale_rewards} is none of {', '.join(SCALES)}")
    teaches_PG = is_live(rewards_PG)[:, None] & ~rewards_PG.isnan()
    centred_PG = torch.where(teaches_PG, rewards_PG - rewards_PG.nanmean(dim=1, keepdim=True), 0.0)
    if scale_rewards == "none":
        return centred_PG
    unit = deviation(rewards_PG, dim=(1,) if scale_rewards == "group" else (0, 1))
    return centred_PG / unit.clamp(min=LEAST_DEVIATION)


def is_live(rewards_PG: Tensor) -> Tensor:
    """Which groups have something to teach: two replies, at least, that earned unequal rewards."""
    return deviation(rewards_PG, dim=(1,))[:, 0] > LEAST_DEVIATION


def deviation(rewards_PG: Tensor, *, dim: tuple[int, ...]) -> Tensor:
    """The standard deviation (over n, not n - 1) of the rewards there are, with `dim` kept; 0 for fewer than two.

    In float64, where the mean of equal float32 numbers is that number, so that they have no deviation at all.
    """
    rewards = rewards_PG.double()
    squares = (rewards - rewards.nanmean(dim, keepdim=True)).square()
    return squares.nanmean(dim, keepdim=True).nan_to_num().sqrt().to(rewards_PG.dtype)

"""What tells policy losses apart: a table with a row for each, and what a token gains in them.

Nouns: *advantage*, how much better a reply was than its siblings; *ratio*, a token's probability now over its
probability when it was sampled; *gain*, what a token adds to the objective. Knows no network, no reward, no rollout.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gorae.posttrain.advantage import SCALES

AVERAGES = ("token", "sequence", "max_tokens")


@dataclass(frozen=True)
class Algorithm:
    """A policy loss by the choices in which the published ones differ.

    scale_rewards: advantages are divided by the deviation of rewards in the "group", in the "batch", or by "none".
    average: what the sum over tokens is divided by: "token", all tokens; "sequence", each reply's length, then the
    number of replies; "max_tokens", the number of replies times the longest a reply may be.
    epsilon, epsilon_high: ratios are clipped to [1 - epsilon, 1 + epsilon_high].
    ratio_of_sequence: all tokens of a reply have one ratio, the geometric mean of their own.
    keeps_clipped: a clipped ratio is a constant weight of log p, so that no token ever loses its gradient.
    """

    epsilon: float
    epsilon_high: float
    average: str
    scale_rewards: str = "group"
    ratio_of_sequence: bool = False
    keeps_clipped: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("scale_rewards", SCALES), ("average", AVERAGES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)} is none of {', '.join(allowed)}")
        for name in ("epsilon", "epsilon_high"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative: ratios are clipped around 1")


# CISPO has no lower bound. Bounds that papers leave open: CISPO's upper one, 5, is ours; 0.2 is PPO's.
ALGORITHMS = {
    "grpo": Algorithm(epsilon=0.2, epsilon_high=0.2, average="sequence"),
    "dapo": Algorithm(epsilon=0.2, epsilon_high=0.28, average="token"),
    "dr_grpo": Algorithm(epsilon=0.2, epsilon_high=0.2, average="max_tokens", scale_rewards="none"),
    "gspo": Algorithm(epsilon=3e-4, epsilon_high=4e-4, average="sequence", ratio_of_sequence=True),
    "cispo": Algorithm(epsilon=1.0, epsilon_high=4.0, average="token", keeps_clipped=True),
}


def find_algorithm(name: str) -> Algorithm:
    """The row of the table. Raises ValueError for a name without one."""
    if name not in ALGORITHMS:
        raise ValueError(f"algorithm={name} is none of {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]


def token_gains(
    algorithm: Algorithm, log_probs_N: Tensor, sampled_log_probs_N: Tensor, advantages_N: Tensor, lengths: list[int]
) -> tuple[Tensor, Tensor]:
    """What each token adds to the objective before any average, and whether its ratio was clipped.

    lengths: tokens of each reply, whose sum is N. Sources: docs/algorithms.md has paper and equation of each algorithm.
    """
    log_ratio_N = log_probs_N - sampled_log_probs_N
    if algorithm.ratio_of_sequence:
        means_B = torch.stack([part_T.mean() for part_T in log_ratio_N.split(lengths)])
        log_ratio_N = means_B.repeat_interleave(torch.tensor(lengths, device=means_B.device))
    ratio_N = log_ratio_N.exp()
    clipped_N = ratio_N.clamp(1 - algorithm.epsilon, 1 + algorithm.epsilon_high)
    if algorithm.keeps_clipped:
        gain_N = clipped_N.detach() * advantages_N * log_probs_N
    else:
        gain_N = torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)
    return gain_N, ratio_N != clipped_N

"""GRPO (arXiv 2402.03300) and its descendants: sample groups, compare within each, move the policy.

One loss for all of them: a sum over tokens of gain times weight, over a divisor. Which gain, weight and divisor is the
algorithm's; docs/reasoning.md states every divisor.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gorae.model import Network
from gorae.posttrain.advantage import deviation, group_advantages
from gorae.posttrain.algorithm import Algorithm, find_algorithm, token_gains
from gorae.posttrain.rollout import Rollout
from gorae.posttrain.sft import training_row
from gorae.train import Batch, Loss, OptimizerSettings, Schedule, pad_batch, policy_outputs

KL_ROWS = 32  # enough to see the distance, an eighth of the cost of all rows


@dataclass(frozen=True)
class GrpoSettings:
    """One on-policy update a step on num_prompts x num_samples replies.

    algorithm: grpo, dapo, dr_grpo, gspo or cispo.
    scale_rewards: "group", "batch", "none", or as the algorithm was "published".
    epsilon, epsilon_high: how far a ratio may leave 1 downwards and upwards; none takes the algorithm's.
    exclude_dead_groups: replies of groups that teach nothing are not counted where the loss is divided.
    """

    steps: int = 60
    num_prompts: int = 12
    num_samples: int = 16
    max_tokens: int = 52
    temperature: float = 1.0
    algorithm: str = "dapo"
    scale_rewards: str = "published"
    epsilon: float | None = None
    epsilon_high: float | None = None
    exclude_dead_groups: bool = False
    optimizer: OptimizerSettings = OptimizerSettings(lr=5e-4, matrix_lr=None)
    save_every: int = 10

    def __post_init__(self) -> None:
        if self.num_prompts < 1 or self.num_samples < 2:
            raise ValueError(
                f"num_prompts={self.num_prompts} must be at least 1, and num_samples={self.num_samples} at least 2: "
                "a reply is compared with its siblings"
            )
        _ = self.schedule, self.rule  # refuse impossible steps and unknown algorithms before anything is run

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.steps, warmup_fraction=0.05, decay_fraction=0.25, final_share=0.1)

    @property
    def rule(self) -> Algorithm:
        """The algorithm as published, but for what is set otherwise here."""
        published = find_algorithm(self.algorithm)
        return replace(
            published,
            scale_rewards=published.scale_rewards if self.scale_rewards == "published" else self.scale_rewards,
            epsilon=published.epsilon if self.epsilon is None else self.epsilon,
            epsilon_high=published.epsilon_high if self.epsilon_high is None else self.epsilon_high,
        )


@dataclass(frozen=True)
class PolicyBatch(Batch):
    """Rows with something to teach, with their tokens' advantages and sampling log-probabilities, row by row.

    `divisor` is what the loss divides its weighted sum by, which counts replies that were left out as well; `figures`
    describes all rollouts of the step.
    """

    advantages_N: Tensor
    sampled_log_probs_N: Tensor
    divisor: float
    figures: dict[str, float]


def policy_batch(rollouts: Sequence[Rollout], settings: GrpoSettings, *, pad_id: int) -> PolicyBatch:
    """Advantages by group; replies whose advantage is 0 are left out, as their gradient is 0 (one row always stays).

    Replies without a reward count nowhere. Raises ValueError for a reward that is no finite number.
    """
    rule = settings.rule
    rewards_PG = reward_table(rollouts, settings.num_samples)
    advantages_PG = group_advantages(rewards_PG, scale_rewards=rule.scale_rewards)
    counts_PG = ~rewards_PG.isnan()
    if settings.exclude_dead_groups:
        counts_PG &= advantages_PG.any(dim=1, keepdim=True)
    counted = [one for one, counts in zip(rollouts, counts_PG.flatten().tolist(), strict=True) if counts]
    kept = [
        (one, advantage) for one, advantage in zip(rollouts, advantages_PG.flatten().tolist(), strict=True) if advantage
    ] or [(rollouts[0], 0.0)]
    rows = [
        training_row(one.prompt_ids, one.reply_ids, 1 / len(one.reply_ids) if rule.average == "sequence" else 1.0)
        for one, _ in kept
    ]
    divisors = {
        "token": sum(len(one.reply_ids) for one in counted),
        "sequence": len(counted),
        "max_tokens": len(counted) * settings.max_tokens,
    }
    batch = pad_batch(rows, pad_id)
    return PolicyBatch(
        batch.token_ids_BT,
        batch.weights_BT,
        advantages_N=torch.tensor([advantage for one, advantage in kept for _ in one.reply_ids]),
        sampled_log_probs_N=torch.tensor([log_prob for one, _ in kept for log_prob in one.log_probs]),
        divisor=divisors[rule.average] or math.inf,  # where nothing counts, nothing is to move
        figures=describe_rollouts(rollouts, rewards_PG),
    )


def reward_table(rollouts: Sequence[Rollout], num_samples: int) -> Tensor:
    """Rewards [P, G], NaN where there is none. Raises ValueError for a reward that is no finite number."""
    for one in rollouts:
        if one.reward is not None and not math.isfinite(one.reward):
            raise ValueError(
                f"a reply to prompt {one.prompt} has the reward {one.reward}; a reward must be a finite number, or "
                "None where the reply could not be graded"
            )
    rewards = [math.nan if one.reward is None else float(one.reward) for one in rollouts]
    return torch.tensor(rewards).view(-1, num_samples)


def describe_rollouts(rollouts: Sequence[Rollout], rewards_PG: Tensor) -> dict[str, float]:
    """A step's figures under the names TRL gives them, where it has one."""
    lengths = [len(one.reply_ids) for one in rollouts]
    clipped = [one.finish_reason == "length" for one in rollouts]
    deviations_P1, ungraded_PG = deviation(rewards_PG, dim=(1,)), rewards_PG.isnan()
    return {
        "reward": rewards_PG[~ungraded_PG].mean().item(),
        "reward_std": deviations_P1.mean().item(),
        "frac_reward_zero_std": (deviations_P1 < 1e-6).float().mean().item(),
        "completions/mean_length": sum(lengths) / len(lengths),
        "completions/clipped_ratio": sum(clipped) / len(clipped),
        "completions/ungraded_ratio": ungraded_PG.float().mean().item(),
    }


def policy_loss(network: Network, batch: Batch, *, settings: GrpoSettings, reference: Network | None = None) -> Loss:
    """-Σ gain · weight / divisor over the batch's tokens, as `settings.rule` has it.

    `kl` reports the distance from `reference` on the first rows (the estimator e^d - d - 1, arXiv 2402.03300 eq. 4);
    `mismatch_kl` the same between what the engine reported and this forward pass, 0 by the second law.
    """
    assert isinstance(batch, PolicyBatch), "the policy loss learns from rollouts; build its batch with policy_batch"
    outputs = policy_outputs(network, batch)
    is_learnt_BT = batch.weights_BT[:, 1:] != 0
    gain_N, is_clipped_N = token_gains(
        settings.rule,
        outputs.log_probs_N,
        batch.sampled_log_probs_N,
        batch.advantages_N,
        lengths=is_learnt_BT.sum(dim=1).tolist(),
    )
    total = -(gain_N * batch.weights_BT[:, 1:][is_learnt_BT]).sum() / batch.divisor
    figures = {
        **batch.figures,
        "loss": total.item(),
        "entropy": outputs.entropy,
        "clip_ratio": is_clipped_N.float().mean().item(),
        "mismatch_kl": divergence(outputs.log_probs_N.detach() - batch.sampled_log_probs_N),
    }
    if reference is not None:
        some = Batch(batch.token_ids_BT[:KL_ROWS], batch.weights_BT[:KL_ROWS])
        with torch.no_grad():
            reference_N = policy_outputs(reference, some).log_probs_N
        figures["kl"] = divergence(reference_N - outputs.log_probs_N.detach()[: len(reference_N)])
    return Loss(total, figures)


def divergence(log_ratio_N: Tensor) -> float:
    """Mean of e^d - d - 1: never negative, and an unbiased estimate of the KL divergence."""
    return (log_ratio_N.exp() - log_ratio_N - 1).mean().item()

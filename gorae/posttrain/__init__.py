"""After pretraining: examples to imitate, rollouts to learn from, a student to teach, proof that both sides agree."""

from gorae.posttrain.advantage import group_advantages
from gorae.posttrain.algorithm import ALGORITHMS, Algorithm
from gorae.posttrain.distill import keep_correct
from gorae.posttrain.grpo import KL_ROWS, GrpoSettings, PolicyBatch, policy_batch, policy_loss
from gorae.posttrain.parity import Parity, measure_parity
from gorae.posttrain.rollout import Rollout, rollouts_of, sample_groups, sample_rollouts
from gorae.posttrain.sft import Example, example_batches

__all__ = [
    "ALGORITHMS",
    "KL_ROWS",
    "Algorithm",
    "Example",
    "GrpoSettings",
    "Parity",
    "PolicyBatch",
    "Rollout",
    "example_batches",
    "group_advantages",
    "keep_correct",
    "measure_parity",
    "policy_batch",
    "policy_loss",
    "rollouts_of",
    "sample_groups",
    "sample_rollouts",
]

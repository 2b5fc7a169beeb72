"""After pretraining: examples to imitate, rollouts to learn from, a student to teach, proof that both sides agree."""

from gorae.posttrain.advantage import group_advantages
from gorae.posttrain.algorithm import ALGORITHMS, Algorithm
from gorae.posttrain.distill import keep_correct
from gorae.posttrain.grpo import GrpoSettings, PolicyBatch, mini_batch, policy_batch, policy_loss
from gorae.posttrain.overlong import shape_overlong
from gorae.posttrain.parity import Parity, measure_parity
from gorae.posttrain.reference import Reference
from gorae.posttrain.refill import sample_until_live
from gorae.posttrain.rollout import Rollout, sample_rollouts
from gorae.posttrain.sft import Example, example_batches

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "Example",
    "GrpoSettings",
    "Parity",
    "PolicyBatch",
    "Reference",
    "Rollout",
    "example_batches",
    "group_advantages",
    "keep_correct",
    "measure_parity",
    "mini_batch",
    "policy_batch",
    "policy_loss",
    "sample_rollouts",
    "sample_until_live",
    "shape_overlong",
]

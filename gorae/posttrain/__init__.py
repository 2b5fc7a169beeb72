"""After pretraining: examples to imitate, rollouts to learn from, a student to teach, proof that both sides agree."""

from gorae.posttrain.advantage import group_advantages
from gorae.posttrain.algorithm import ALGORITHMS, Algorithm
from gorae.posttrain.distill import keep_correct
from gorae.posttrain.esft import expert_shares, relevant_experts
from gorae.posttrain.grpo import GrpoSettings, PolicyBatch, mini_batch, policy_batch, policy_loss
from gorae.posttrain.layers import Comparison, Difference, compare_layers
from gorae.posttrain.mismatch import QUANTILES, Correction, Mismatch, masked, measure_mismatch, of_sequences, truncated
from gorae.posttrain.overlong import shape_overlong
from gorae.posttrain.parity import Parity, measure_parity
from gorae.posttrain.reference import Reference
from gorae.posttrain.refill import sample_until_live
from gorae.posttrain.replay import replay_of
from gorae.posttrain.rollout import Rollout, rollouts_of, sample_groups, sample_rollouts
from gorae.posttrain.sft import Example, example_batches
from gorae.posttrain.sides import EndpointSide, GoraeSide, Prompt, Side, TransformersSide, widest

__all__ = [
    "ALGORITHMS",
    "QUANTILES",
    "Algorithm",
    "Comparison",
    "Correction",
    "Difference",
    "EndpointSide",
    "Example",
    "GoraeSide",
    "GrpoSettings",
    "Mismatch",
    "Parity",
    "PolicyBatch",
    "Prompt",
    "Reference",
    "Rollout",
    "Side",
    "TransformersSide",
    "compare_layers",
    "example_batches",
    "expert_shares",
    "group_advantages",
    "keep_correct",
    "masked",
    "measure_mismatch",
    "measure_parity",
    "mini_batch",
    "of_sequences",
    "policy_batch",
    "policy_loss",
    "relevant_experts",
    "replay_of",
    "rollouts_of",
    "sample_groups",
    "sample_rollouts",
    "sample_until_live",
    "shape_overlong",
    "truncated",
    "widest",
]

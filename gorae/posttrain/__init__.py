"""After pretraining: examples to imitate, rollouts to learn from, a student to teach, proof that both sides agree."""

from gorae.posttrain.advantage import group_advantages
from gorae.posttrain.algorithm import ALGORITHMS, Algorithm
from gorae.posttrain.distill import keep_correct
from gorae.posttrain.grpo import KL_ROWS, GrpoSettings, PolicyBatch, policy_batch, policy_loss
from gorae.posttrain.layers import Comparison, Difference, compare_layers
from gorae.posttrain.mismatch import QUANTILES, Correction, Mismatch, masked, measure_mismatch, of_sequences, truncated
from gorae.posttrain.parity import Parity, measure_parity
from gorae.posttrain.replay import replay_of
from gorae.posttrain.rollout import Rollout, rollouts_of, sample_groups, sample_rollouts
from gorae.posttrain.sft import Example, example_batches
from gorae.posttrain.sides import EndpointSide, GoraeSide, Prompt, Side, TransformersSide, widest

__all__ = [
    "ALGORITHMS",
    "KL_ROWS",
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
    "Rollout",
    "Side",
    "TransformersSide",
    "compare_layers",
    "example_batches",
    "group_advantages",
    "keep_correct",
    "masked",
    "measure_mismatch",
    "measure_parity",
    "of_sequences",
    "policy_batch",
    "policy_loss",
    "replay_of",
    "rollouts_of",
    "sample_groups",
    "sample_rollouts",
    "truncated",
    "widest",
]

"""After pretraining: examples to imitate, rollouts to learn from, a student to teach, proof that both sides agree."""

from gorae.posttrain.advantage import group_advantages
from gorae.posttrain.ahead import BatchesAhead, SampledBatch
from gorae.posttrain.algorithm import ALGORITHMS, Algorithm
from gorae.posttrain.distill import keep_correct
from gorae.posttrain.divergence import forward_kl, reverse_kl, sampled_reverse_kl, top_k_kl
from gorae.posttrain.dpo import (
    DpoSettings,
    Preference,
    PreferenceBatch,
    preference_batches,
    preference_loss,
    reference_log_probs,
)
from gorae.posttrain.episode import Episode, World, sample_episodes
from gorae.posttrain.esft import expert_shares, relevant_experts
from gorae.posttrain.fleet import Fleet, Here, HereQuantised, Tally
from gorae.posttrain.grpo import (
    ROUTER_BIAS_RATE,
    GrpoSettings,
    PolicyBatch,
    first_log_probs,
    mini_batch,
    policy_batch,
    policy_loss,
)
from gorae.posttrain.layers import Comparison, Difference, compare_layers
from gorae.posttrain.mismatch import QUANTILES, Correction, Mismatch, masked, measure_mismatch, of_sequences, truncated
from gorae.posttrain.on_policy import OnPolicyBatch, OnPolicySettings, on_policy_batch, on_policy_loss
from gorae.posttrain.overlong import shape_overlong
from gorae.posttrain.parity import Parity, measure_parity
from gorae.posttrain.reference import Reference
from gorae.posttrain.refill import sample_until_live
from gorae.posttrain.replay import replay_of
from gorae.posttrain.rollout import CUT_OFF, Rollout, rollouts_of, sample_groups, sample_rollouts
from gorae.posttrain.sampler import Sampler
from gorae.posttrain.sft import Example, example_batches, example_of, training_row
from gorae.posttrain.sides import EndpointSide, GoraeSide, Prompt, Side, TransformersSide, widest
from gorae.posttrain.taught import (
    FeatureCache,
    TaughtBatch,
    logit_loss,
    require_same_tokens,
    taught_batches,
    teacher_features,
)
from gorae.posttrain.teacher import ApiSettings, ApiTeacher, ModelTeacher, Teacher
from gorae.posttrain.trace import Trace, as_sampled, retold

__all__ = [
    "ALGORITHMS",
    "CUT_OFF",
    "QUANTILES",
    "ROUTER_BIAS_RATE",
    "Algorithm",
    "ApiSettings",
    "ApiTeacher",
    "BatchesAhead",
    "Comparison",
    "Correction",
    "Difference",
    "DpoSettings",
    "EndpointSide",
    "Episode",
    "Example",
    "FeatureCache",
    "Fleet",
    "GoraeSide",
    "GrpoSettings",
    "Here",
    "HereQuantised",
    "Mismatch",
    "ModelTeacher",
    "OnPolicyBatch",
    "OnPolicySettings",
    "Parity",
    "PolicyBatch",
    "Preference",
    "PreferenceBatch",
    "Prompt",
    "Reference",
    "Rollout",
    "SampledBatch",
    "Sampler",
    "Side",
    "Tally",
    "TaughtBatch",
    "Teacher",
    "Trace",
    "TransformersSide",
    "World",
    "as_sampled",
    "compare_layers",
    "example_batches",
    "example_of",
    "expert_shares",
    "first_log_probs",
    "forward_kl",
    "group_advantages",
    "keep_correct",
    "logit_loss",
    "masked",
    "measure_mismatch",
    "measure_parity",
    "mini_batch",
    "of_sequences",
    "on_policy_batch",
    "on_policy_loss",
    "policy_batch",
    "policy_loss",
    "preference_batches",
    "preference_loss",
    "reference_log_probs",
    "relevant_experts",
    "replay_of",
    "require_same_tokens",
    "retold",
    "reverse_kl",
    "rollouts_of",
    "sample_episodes",
    "sample_groups",
    "sample_rollouts",
    "sample_until_live",
    "sampled_reverse_kl",
    "shape_overlong",
    "taught_batches",
    "teacher_features",
    "top_k_kl",
    "training_row",
    "truncated",
    "widest",
]

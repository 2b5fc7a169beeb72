"""On-policy distillation: the student replies, the teacher says of the same tokens what it would have said.

The loss is KL(student ‖ teacher), averaged over the student's tokens (arXiv 2306.13649; DeepSeek-V4 merges its
specialists so, over the whole vocabulary). Token ids go from the engine to both networks; nothing is written out and
read again. As usual, the gradient does not reach through the sampling: a token is not blamed for those after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gorae.model import Network
from gorae.posttrain.divergence import in_chunks, reverse_kl, sampled_reverse_kl
from gorae.posttrain.grpo import divergence
from gorae.posttrain.rollout import CUT_OFF, Rollout
from gorae.posttrain.sft import training_row
from gorae.posttrain.taught import TaughtBatch, both_log_probs, teacher_features
from gorae.train import AdapterSettings, Batch, Loss, OptimizerSettings, Schedule, pad_batch

ESTIMATORS = ("full", "sampled")


@dataclass(frozen=True)
class OnPolicySettings:
    """One update a step, on a reply to each of num_prompts prompts, sampled at temperature 1.

    max_turns: of an episode, where the task has tools.
    estimator: full, of the whole vocabulary at each token, or sampled, of the token that was sampled alone.
    """

    steps: int = 100
    num_prompts: int = 64
    max_tokens: int = 52
    max_turns: int = 8
    estimator: str = "full"
    optimizer: OptimizerSettings = OptimizerSettings(lr=2e-3, matrix_lr=None)
    adapter: AdapterSettings = AdapterSettings()
    save_every: int = 10

    def __post_init__(self) -> None:
        for name in ("num_prompts", "max_tokens", "max_turns", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"estimator={self.estimator} must be one of {', '.join(ESTIMATORS)}")
        _ = self.schedule  # refuses impossible steps before anything is run

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.steps, warmup_fraction=0.05, decay_fraction=0.25, final_share=0.1)


@dataclass(frozen=True)
class OnPolicyBatch(TaughtBatch):
    """Replies of the student, what the engine said of their tokens, and what else there is to report of them."""

    sampled_log_probs_N: Tensor
    figures: dict[str, float]


def on_policy_batch(rollouts: Sequence[Rollout], teacher: Network, *, pad_id: int) -> OnPolicyBatch:
    """The batch of replies, read by the teacher."""
    rows = pad_batch(
        [training_row(one.prompt_ids, one.reply_ids, is_learnt=one.is_sampled) for one in rollouts], pad_id
    )
    return OnPolicyBatch(
        rows.token_ids_BT,
        rows.weights_BT,
        teacher_features(teacher, rows),
        sampled_log_probs_N=torch.tensor([log_prob for one in rollouts for log_prob in one.log_probs]),
        figures=describe(rollouts),
    )


def describe(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """A step's figures, named as in reinforcement learning; rewards are reported, not learnt from."""
    rewards = [one.reward for one in rollouts if one.reward is not None]
    return {
        "reward": sum(rewards) / len(rewards) if rewards else float("nan"),
        "completions/mean_length": sum(one.num_sampled for one in rollouts) / len(rollouts),
        "completions/clipped_ratio": sum(one.finish_reason in CUT_OFF for one in rollouts) / len(rollouts),
        "completions/ungraded_ratio": 1 - len(rewards) / len(rollouts),
    }


def on_policy_loss(network: Network, batch: Batch, *, teacher: Network, estimator: str = "full") -> Loss:
    """Mean over tokens of KL(student ‖ teacher), by one of `ESTIMATORS`; `teacher_kl` reports it in full by either.

    `mismatch_kl` and `ratio_max` say how far what the engine reported is from this forward pass: both 0 by the second
    law.
    """
    assert isinstance(batch, OnPolicyBatch), "on-policy distillation learns from replies of the student's own"
    features = network(batch.token_ids_BT[:, :-1])
    chosen = batch.weights_BT[:, 1:] != 0
    is_full = estimator == "full"

    def measure(hidden_ND: Tensor, features_NX: Tensor, ids_N: Tensor, sampled_N: Tensor) -> Tensor:
        """What to differentiate, the divergence, the entropy and the student's log-probability of each token."""
        student_NW, teacher_NW = both_log_probs(network, hidden_ND, teacher, features_NX)
        own_N, expected_N = (side_NW.gather(-1, ids_N[:, None])[:, 0] for side_NW in (student_NW, teacher_NW))
        with torch.set_grad_enabled(torch.is_grad_enabled() and is_full):
            whole_N = reverse_kl(student_NW, teacher_NW)
        learnt_N = whole_N if is_full else sampled_reverse_kl(own_N, sampled_N, expected_N)
        entropy_N = -(student_NW.detach().exp() * student_NW.detach()).sum(-1)
        return torch.stack([learnt_N, whole_N.detach(), entropy_N, own_N.detach()], dim=1)

    learnt_N, whole_N, entropy_N, own_N = in_chunks(
        measure,
        features.hidden_BTD[chosen],
        batch.features_NX,
        batch.token_ids_BT[:, 1:][chosen],
        batch.sampled_log_probs_N,
        vocab_size=teacher.config.vocab_size,
    ).unbind(1)
    total = learnt_N.mean()
    moved_N = own_N.detach() - batch.sampled_log_probs_N
    figures = {
        **batch.figures,
        "loss": total.item(),
        "teacher_kl": whole_N.mean().item(),
        "entropy": entropy_N.mean().item(),
        "mismatch_kl": divergence(moved_N).mean().item(),
        "ratio_max": moved_N.expm1().abs().max().item(),
    }
    return Loss(total, figures, features.routings)

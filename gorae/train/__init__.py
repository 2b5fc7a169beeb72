"""Learning: losses, the optimizer, the schedule, one update, and the one loop all stages share."""

from gorae.train.adapter import Adapter, AdapterSettings, ExpertAdapter, LowRankAdapter
from gorae.train.batch import Batch, pad_batch
from gorae.train.loss import Loss, Sampling, policy_outputs, pretraining_loss, supervised_loss, token_log_probs
from gorae.train.measure import bits_per_byte
from gorae.train.memory import keep_freed_memory
from gorae.train.optimizer import HybridOptimizer, OptimizerSettings
from gorae.train.schedule import Schedule
from gorae.train.step import move_router_biases, update
from gorae.train.trainer import Trainer

__all__ = [
    "Adapter",
    "AdapterSettings",
    "Batch",
    "ExpertAdapter",
    "HybridOptimizer",
    "Loss",
    "LowRankAdapter",
    "OptimizerSettings",
    "Sampling",
    "Schedule",
    "Trainer",
    "bits_per_byte",
    "keep_freed_memory",
    "move_router_biases",
    "pad_batch",
    "policy_outputs",
    "pretraining_loss",
    "supervised_loss",
    "token_log_probs",
    "update",
]

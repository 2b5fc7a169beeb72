"""Direct preference optimisation (arXiv 2305.18290): of two replies to a prompt, the one that was chosen gets likelier.

How likely both were to begin with is computed once and kept, so that no second network is in memory while one learns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gorae.data import Loader
from gorae.model import Network
from gorae.posttrain.sft import training_row
from gorae.train import AdapterSettings, Batch, Loss, OptimizerSettings, Schedule, pad_batch, policy_outputs


@dataclass(frozen=True)
class DpoSettings:
    """Updates on pairs of replies.

    batch_size: pairs an update.
    beta: what a log-probability beyond the reference's is multiplied by to be a reward; the smaller, the further away
    from the reference.
    """

    steps: int = 60
    batch_size: int = 16
    beta: float = 0.1
    optimizer: OptimizerSettings = OptimizerSettings(lr=5e-4, matrix_lr=None)
    adapter: AdapterSettings = AdapterSettings()
    save_every: int = 20

    def __post_init__(self) -> None:
        if self.beta <= 0 or self.batch_size < 1 or self.save_every < 1:
            raise ValueError(
                f"beta={self.beta} must be positive, batch_size={self.batch_size} and save_every={self.save_every} at "
                "least 1"
            )
        _ = self.schedule  # refuses impossible steps before anything is run

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.steps, warmup_fraction=0.1, decay_fraction=0.5)


@dataclass(frozen=True)
class Preference:
    """The ids of a prompt, of the reply to it that was preferred, and of another."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


@dataclass(frozen=True)
class PreferenceBatch(Batch):
    """Rows of P pairs, all that were chosen before all that were rejected; `reference_2P` is how likely they were."""

    reference_2P: Tensor


def preference_batches(
    pairs: Sequence[Preference], reference_N2: Tensor, *, batch_size: int, seed: int, pad_id: int
) -> Callable[[int], PreferenceBatch]:
    """The batch of any step: all pairs in an order drawn anew each epoch from (seed, epoch) alone."""
    loader = Loader(len(pairs), batch_size, seed=seed)

    def batch(step: int) -> PreferenceBatch:
        places = loader.batch(step).tolist()
        rows = rows_of([pairs[place] for place in places], pad_id)
        return PreferenceBatch(rows.token_ids_BT, rows.weights_BT, reference_2P=reference_N2[places].T)

    return batch


def rows_of(pairs: Sequence[Preference], pad_id: int) -> Batch:
    chosen = [training_row(one.prompt_ids, one.chosen_ids) for one in pairs]
    rejected = [training_row(one.prompt_ids, one.rejected_ids) for one in pairs]
    return pad_batch(chosen + rejected, pad_id)


@torch.no_grad()
def reference_log_probs(
    network: Network, pairs: Sequence[Preference], *, batch_size: int, pad_id: int, count: Callable[[Batch], None]
) -> Tensor:
    """log p of both replies [N, 2] to each prompt, by the network that is to learn, before it does."""
    found = []
    for start in range(0, len(pairs), batch_size):
        batch = rows_of(pairs[start : start + batch_size], pad_id)
        found.append(reply_log_probs(network, batch))
        count(batch)
    return torch.cat(found, dim=1).T.contiguous()


def reply_log_probs(network: Network, batch: Batch) -> Tensor:
    """log p [2, P] of all of each row's reply, added up in float64: the same bits whatever the rows beside it are."""
    log_probs_N = policy_outputs(network, batch).log_probs_N.double()
    lengths = (batch.weights_BT[:, 1:] != 0).sum(1).tolist()
    return torch.stack([reply.sum() for reply in log_probs_N.split(lengths)]).unflatten(0, (2, -1))


def preference_loss(network: Network, batch: Batch, *, beta: float) -> Loss:
    """-log sigmoid(beta · ((log p chosen - reference) - (log p rejected - reference))), its mean over pairs (eq. 7)."""
    assert isinstance(batch, PreferenceBatch), "preferences come in pairs; build their batch with preference_batches"
    log_probs_2P = reply_log_probs(network, batch)
    rewards_2P = beta * (log_probs_2P - batch.reference_2P)
    margins_P = rewards_2P[0] - rewards_2P[1]
    total = -F.logsigmoid(margins_P).mean()
    figures = {
        "rewards/chosen": rewards_2P[0].mean(),
        "rewards/rejected": rewards_2P[1].mean(),
        "rewards/margins": margins_P.mean(),
        "rewards/accuracies": (margins_P > 0).double().mean(),
        "logps/chosen": log_probs_2P[0].mean(),
        "logps/rejected": log_probs_2P[1].mean(),
        "loss": total,
    }
    return Loss(total, {name: figure.item() for name, figure in figures.items()})

"""What a learning stage computes: the weights it moves, and the floating-point operations that go on its bill."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from gorae.config import ModelConfig, forward_flops, training_flops
from gorae.model import Network, shared_tokens
from gorae.observe import Meter, read_metrics
from gorae.train import Batch


def sampling_parameters(network: Network) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """The parameters that take part in sampling; tuning leaves the prediction modules as pretraining made them."""
    return ((name, parameter) for name, parameter in network.named_parameters() if not name.startswith("mtp."))


def count_training(meter: Meter, config: ModelConfig, batch: Batch) -> None:
    meter.add(
        flops=training_flops(config, batch.num_tokens, context=batch.token_ids_BT.shape[1] / 2), tokens=batch.num_tokens
    )


def count_policy(
    meter: Meter, config: ModelConfig, batch: Batch, *, read_rows: int | None, recomputes: bool = False
) -> None:
    """A step of learning from rollouts, of which `read_rows` rows (None: all) are read by a reference too.

    Where blocks are computed again for the gradient, that is one more pass.
    """
    count_rows(meter, config, batch, training_flops)
    count_rows(meter, config, batch, forward_flops, num_rows=read_rows)
    if recomputes:
        count_rows(meter, config, batch, forward_flops)


def count_rows(
    meter: Meter, config: ModelConfig, batch: Batch, count: Callable[..., float], *, num_rows: int | None = None
) -> None:
    """A pass over a batch's rows, or the first of them, that computes once what neighbours begin with alike."""
    lengths_B = batch.read_lengths[:num_rows]
    shared_B = shared_tokens(batch.token_ids_BT[:num_rows, :-1], lengths_B)
    num_tokens = int((lengths_B - shared_B).sum())
    num_seen = int((lengths_B * (lengths_B + 1) - shared_B * (shared_B + 1)).sum()) / 2
    meter.add(flops=count(config, num_tokens, context=num_seen / num_tokens), tokens=num_tokens)


def count_reading(meter: Meter, config: ModelConfig, rows: np.ndarray | torch.Tensor) -> None:
    """A forward pass over rows [N, T] that nothing is learnt from."""
    num_rows, length = rows.shape
    num_tokens = num_rows * length
    meter.add(flops=forward_flops(config, num_tokens, context=length / 2), tokens=num_tokens)


def flops_of(folder: Path) -> float:
    """What a learning stage's work has taken by its metrics; a bill has more if a kill threw some away."""
    lines = read_metrics(folder / "metrics.jsonl")
    return lines[-1]["flops"] if lines else 0.0

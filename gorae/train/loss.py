"""What the stages minimise, and the log-probabilities they are built from.

A loss takes (network, batch) and returns a `Loss`: the number to differentiate and the figures to report.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gorae.kernels import Routing, expert_load, log_softmax
from gorae.model import Network
from gorae.train.batch import Batch

HEAD_NUMBERS = 2**26  # of a vocabulary's numbers for a gradient in memory at once: 256 MiB, a whole batch on a laptop


class Loss(NamedTuple):
    """The total to differentiate, what to report, and the routers' decisions behind it."""

    total: Tensor
    figures: dict[str, float]
    routings: Sequence[Routing] = ()


def token_log_probs(network: Network, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    """log p(target) at temperature 1 for each of N features; the engine reports these same numbers."""
    return torch.cat(in_parts(network, of_targets, hidden_ND, targets_N))


def of_targets(network: Network, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    return log_softmax(network.logits(hidden_ND)).gather(-1, targets_N[:, None])[:, 0]


def in_parts(network: Network, compute: Callable[..., Any], hidden_ND: Tensor, targets_N: Tensor) -> list[Any]:
    """What the head says of N features, `HEAD_NUMBERS` at a time; computed again for the gradient where blocks are."""
    num_rows = max(1, HEAD_NUMBERS // network.config.vocab_size)
    parts = zip(hidden_ND.split(num_rows), targets_N.split(num_rows), strict=True)
    if network.recomputes:
        return [network.recomputed(compute, network, *part) for part in parts]
    return [compute(network, *part) for part in parts]


def weighted_cross_entropy(network: Network, hidden_BTD: Tensor, targets_BT: Tensor, weights_BT: Tensor) -> Tensor:
    """Mean of -log p(target) under the weights; only positions with weight are pushed through the head."""
    chosen = weights_BT > 0
    log_probs_N = token_log_probs(network, hidden_BTD[chosen], targets_BT[chosen])
    weights_N = weights_BT[chosen]
    return -(log_probs_N * weights_N).sum() / weights_N.sum()


def supervised_loss(network: Network, batch: Batch) -> Loss:
    """Next-token cross-entropy over the tokens that carry weight."""
    features = network(batch.token_ids_BT[:, :-1])
    total = weighted_cross_entropy(network, features.hidden_BTD, batch.token_ids_BT[:, 1:], batch.weights_BT[:, 1:])
    return Loss(total, {"loss": total.item()}, features.routings)


def pretraining_loss(network: Network, batch: Batch, *, mtp_weight: float, balance_weight: float) -> Loss:
    """Next-token loss, MTP losses averaged over depths, sequence-wise balance loss (arXiv 2412.19437, eq. 17-25)."""
    tokens_BT, weights_BT = batch.token_ids_BT, batch.weights_BT
    features = network(tokens_BT)
    main = weighted_cross_entropy(network, features.hidden_BTD[:, :-1], tokens_BT[:, 1:], weights_BT[:, 1:])
    routings = list(features.routings)
    further = network.predict_further(features, tokens_BT)
    total, figures = main, {"loss": main.item()}
    for depth, prediction in enumerate(further, start=1):
        first = depth + 1
        mtp = weighted_cross_entropy(
            network, prediction.hidden_BTD[:, :-1], tokens_BT[:, first:], weights_BT[:, first:]
        )
        total = total + mtp * (mtp_weight / len(further))
        figures[f"loss_mtp_{depth}"] = mtp.item()
        routings += prediction.routings
    balance = torch.stack([sequence_balance(routing, tokens_BT.shape[0]) for routing in routings]).sum()
    figures["max_vio"] = max(max_violation(routing) for routing in features.routings)
    return Loss(total + balance_weight * balance, figures, routings)


def sequence_balance(routing: Routing, num_sequences: int) -> Tensor:
    """Σ over experts of load share times mean normalised score, averaged over sequences; 1 when perfectly even."""
    scores_BTE = routing.scores_NE.unflatten(0, (num_sequences, -1))
    experts_BTA = routing.experts_NA.unflatten(0, (num_sequences, -1))
    num_experts, num_choices = scores_BTE.shape[-1], experts_BTA[0].numel()
    load_BE = scores_BTE.new_zeros(num_sequences, num_experts)
    load_BE.scatter_add_(1, experts_BTA.flatten(1), load_BE.new_ones(num_sequences, num_choices))
    share_BE = (scores_BTE / scores_BTE.sum(-1, keepdim=True)).mean(1)
    return (load_BE * (num_experts / num_choices) * share_BE).sum(-1).mean()


def max_violation(routing: Routing) -> float:
    """MaxVio: how far the busiest expert lies above the mean load, in means (arXiv 2408.15664)."""
    load_E = expert_load(routing.experts_NA, routing.scores_NE.shape[-1])
    return (load_E.max() / load_E.mean()).item() - 1.0


class PolicyOutputs(NamedTuple):
    """What a policy gradient needs of N sampled tokens: their log-probabilities and the entropy they were drawn at."""

    log_probs_N: Tensor
    entropy: float


def policy_outputs(network: Network, batch: Batch) -> PolicyOutputs:
    """Log-probabilities of the tokens that carry weight, row by row, and their mean entropy in nats."""
    chosen = batch.weights_BT[:, 1:] != 0
    hidden_ND = network(batch.token_ids_BT[:, :-1]).hidden_BTD[chosen]
    parts = in_parts(network, of_targets_with_entropy, hidden_ND, batch.token_ids_BT[:, 1:][chosen])
    log_probs_N, entropy_N = (torch.cat(held) for held in zip(*parts, strict=True))
    return PolicyOutputs(log_probs_N, entropy_N.mean().item())


def of_targets_with_entropy(network: Network, hidden_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    log_probs_NW = log_softmax(network.logits(hidden_ND))
    entropy_N = -(log_probs_NW.detach().exp() * log_probs_NW.detach()).sum(-1)
    return log_probs_NW.gather(-1, targets_N[:, None])[:, 0], entropy_N

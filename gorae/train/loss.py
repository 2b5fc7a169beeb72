"""What the stages minimise, and the log-probabilities they are built from.

A loss takes (network, batch) and returns a `Loss`: the number to differentiate and the figures to report.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gorae.kernels import Routing, cut_log_softmax, expert_load, log_softmax
from gorae.model import Network, Replay
from gorae.train.batch import Batch

HEAD_NUMBERS = 2**26  # of a vocabulary's numbers for a gradient in memory at once: 256 MiB, a whole batch on a laptop
LEAST_LOG_PROB = -1e30  # of a token without probability, whose share of the entropy is 0


class Loss(NamedTuple):
    """The total to differentiate, what to report, and the routers' decisions behind it."""

    total: Tensor
    figures: dict[str, float]
    routings: Sequence[Routing] = ()


def token_log_probs(network: Network, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    """log p(target) at temperature 1 for each of N features; the engine reports these same numbers."""

    def score(hidden_ND: Tensor, rows: slice) -> Tensor:
        return log_softmax(network.logits(hidden_ND)).gather(-1, targets_N[rows, None])[:, 0]

    return torch.cat(in_parts(network, score, hidden_ND))


def in_parts(network: Network, score: Callable[[Tensor, slice], Any], hidden_ND: Tensor) -> list[Any]:
    """`score` of some rows of N features at a time, `HEAD_NUMBERS` of the head; where blocks are, computed again."""
    num_rows = max(1, HEAD_NUMBERS // network.config.vocab_size)
    parts = [slice(first, first + num_rows) for first in range(0, max(1, len(hidden_ND)), num_rows)]
    if network.recomputes:
        return [network.recomputed(score, hidden_ND[rows], rows) for rows in parts]
    return [score(hidden_ND[rows], rows) for rows in parts]


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


class Sampling(NamedTuple):
    """What N tokens were drawn from, where that was not the network's own softmax: its temperature, the tokens kept.

    kept_ids: of each token, those [K] that were kept where it was drawn; None: all.
    """

    temperature: float
    kept_ids: Sequence[Tensor | None]


class PolicyOutputs(NamedTuple):
    """What a policy gradient needs of N sampled tokens: their log-probabilities and the entropy they were drawn at.

    routings: the routers' decisions for all tokens of the pass, padding too.
    """

    log_probs_N: Tensor
    entropy: float
    routings: Sequence[Routing] = ()


def policy_outputs(
    network: Network, batch: Batch, *, sampling: Sampling | None = None, replay: Sequence[Replay] = ()
) -> PolicyOutputs:
    """Log-probabilities of the tokens that carry weight, row by row, and their mean entropy in nats.

    Both are of what the tokens were drawn from; `replay` has the ways they are to take.
    """
    chosen = batch.weights_BT[:, 1:] != 0
    ids_BT = batch.token_ids_BT[:, :-1]
    features = network(ids_BT, replay=replay) if replay else network.read_rows(ids_BT, batch.read_lengths)
    targets_N = batch.token_ids_BT[:, 1:][chosen]

    def score(hidden_ND: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        log_probs_NW = log_softmax(network.logits(hidden_ND))
        if sampling is not None:
            log_probs_NW = drawn_from(log_probs_NW, sampling._replace(kept_ids=sampling.kept_ids[rows]))
        with torch.no_grad():
            entropy_N = -(log_probs_NW.exp() * log_probs_NW.clamp(min=LEAST_LOG_PROB)).sum(-1)
        return log_probs_NW.gather(-1, targets_N[rows, None])[:, 0], entropy_N

    parts = in_parts(network, score, features.hidden_BTD[chosen])
    log_probs_N, entropy_N = (torch.cat(held) for held in zip(*parts, strict=True))
    return PolicyOutputs(log_probs_N, entropy_N.mean().item(), features.routings)


def drawn_from(log_probs_NW: Tensor, sampling: Sampling) -> Tensor:
    """The log-probabilities at the temperature, among the tokens kept: the bits that the engine reports."""
    device = log_probs_NW.device
    is_kept_NW = torch.ones(log_probs_NW.shape, dtype=torch.bool, device=device)
    cut = [(row, kept_K) for row, kept_K in enumerate(sampling.kept_ids) if kept_K is not None]
    if cut:
        rows = torch.tensor([row for row, _ in cut], device=device)
        is_kept_NW[rows] = False
        counts = torch.tensor([len(kept_K) for _, kept_K in cut], device=device)
        is_kept_NW[rows.repeat_interleave(counts), torch.cat([kept_K for _, kept_K in cut]).long().to(device)] = True
    temperatures_N = log_probs_NW.new_full((len(log_probs_NW),), sampling.temperature)
    return cut_log_softmax(log_probs_NW, temperatures_N, is_kept_NW)

"""What quantising costs: how far a network's predictions of a text are from those of the network it was made of.

Noun: `Closeness`. Each network reads the windows of a text in one pass, so that weights larger than memory are read
once; what they predict is compared some tokens at a time. Knows no file and no format.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gorae.model import Network

MOST_TOKENS, WINDOW = 2048, 512

_ELEMENTS_AT_ONCE = 1 << 22  # of float64 log-probabilities, of which there are a few copies


@dataclass(frozen=True)
class Closeness:
    """Over `num_tokens` predicted tokens: perplexity of both, and KL(original ‖ result) in nats a token."""

    num_tokens: int
    original_perplexity: float
    result_perplexity: float
    mean_kl: float
    p99_kl: float  # what 99 of 100 tokens lie below


@torch.inference_mode()
def compare(
    original: Network, result: Network, token_ids: Sequence[int], *, start_ids: Sequence[int] = ()
) -> Closeness:
    """Compare over the first `MOST_TOKENS` of a text, in windows of `WINDOW` that begin with `start_ids` each.

    A last window that is not full is left out, unless there is no other. Raises ValueError for a text of fewer tokens
    than two.
    """
    networks = (original, result)
    windows_BT = _windows(token_ids, start_ids)
    predicting = slice(max(0, len(start_ids) - 1), -1)  # start tokens follow from nothing, but for the text's first
    targets_N = windows_BT[:, 1:][:, predicting.start :].flatten()
    hidden_2ND = torch.stack([one(windows_BT).hidden_BTD[:, predicting].flatten(0, 1) for one in networks])
    rows_at_once = max(1, _ELEMENTS_AT_ONCE // original.config.vocab_size)
    likelihoods_2N, kl_N = [], []
    for targets, hidden in zip(targets_N.split(rows_at_once), hidden_2ND.split(rows_at_once, dim=1), strict=True):
        log_p, log_q = (one.logits(rows).double().log_softmax(-1) for one, rows in zip(networks, hidden, strict=True))
        likelihoods_2N.append(torch.stack([log_p, log_q]).gather(-1, targets.expand(2, -1)[..., None])[..., 0])
        kl_N.append((log_p.exp() * (log_p - log_q)).sum(-1))
    before, after = torch.cat(likelihoods_2N, dim=1).mean(1).neg().exp().tolist()
    divergences = torch.cat(kl_N)
    return Closeness(len(divergences), before, after, divergences.mean().item(), divergences.quantile(0.99).item())


def _windows(token_ids: Sequence[int], start_ids: Sequence[int]) -> Tensor:
    """Windows [B, T] of equal length."""
    taken = torch.tensor(token_ids[:MOST_TOKENS])
    if len(taken) < 2:
        raise ValueError("the text has fewer than two tokens, so that none can be predicted; give a longer one")
    width = min(len(taken), WINDOW - len(start_ids))
    windows = taken[: len(taken) // width * width].unflatten(0, (-1, width))
    start = torch.tensor(start_ids, dtype=torch.long).expand(len(windows), -1)
    return torch.cat((start, windows), dim=1)

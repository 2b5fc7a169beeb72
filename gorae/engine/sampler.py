"""Choosing the next token of every row: one uniform number a token, made from the request's seed and the place.

No generator carries state, so a request's draws depend on its seed alone, never on its neighbours.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gorae.engine.request import Policy, SamplingParams
from gorae.kernels import cut_log_softmax

CPU = torch.device("cpu")


class Draws(NamedTuple):
    """The next token of every row, what it was drawn by, and, where a cut was asked for, what it was drawn from."""

    token_ids: list[int]
    scores_BW: Tensor
    is_likeliest_BW: Tensor | None


def draw(
    log_probs_BW: Tensor,
    params: Sequence[SamplingParams],
    seeds: Sequence[int],
    written: Sequence[list[int]],
    allowed: Sequence[Tensor | None],
) -> Draws:
    """The next token of every row, after the tokens `written` so far and of the tokens [W] `allowed` (None: all)."""
    numbers_B = uniforms(list(seeds), [len(tokens) for tokens in written])
    scores_BW = adjusted(log_probs_BW, params, written)
    if any(mask_W is not None for mask_W in allowed):
        all_W = torch.ones(log_probs_BW.shape[-1], dtype=torch.bool)
        allowed_BW = torch.stack([all_W if mask_W is None else mask_W for mask_W in allowed])
        scores_BW = scores_BW.masked_fill(~allowed_BW, float("-inf"))
    if all(one.temperature == 0 for one in params):
        return Draws(scores_BW.argmax(-1).tolist(), scores_BW, None)
    probs_BW = probabilities(scores_BW, params)
    is_likeliest_BW = probs_BW > 0 if any(one.policy and one.is_cut for one in params) else None
    return Draws(pick(scores_BW, probs_BW, params, numbers_B).tolist(), scores_BW, is_likeliest_BW)


def probabilities(scores_BW: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """softmax(scores / temperature) in float64, 0 for what is cut; temperature 0 counts as 1."""
    heats = {one.temperature for one in params}
    # Below the largest, not below 0: a temperature near 0 must not divide every score to minus infinity.
    lag_BW = scores_BW.double().sub_(scores_BW.amax(-1, keepdim=True))
    if not heats <= {0, 1}:
        lag_BW /= numbers([one.temperature or 1.0 for one in params])[:, None]
    probs_BW = torch.softmax(lag_BW, dim=-1)
    if not any(one.is_cut for one in params):
        return probs_BW
    limits = ([one.top_k for one in params], [one.top_p for one in params], [one.min_p for one in params])
    return keep_likeliest(probs_BW, *map(numbers, limits))


def pick(scores_BW: Tensor, probs_BW: Tensor, params: Sequence[SamplingParams], uniforms_B: Tensor) -> Tensor:
    """Token ids [B], by inverse transform of the probabilities, which are lost; temperature 0 is greedy."""
    cumulative_BW = probs_BW.cumsum_(-1)
    thresholds_B1 = uniforms_B[:, None] * cumulative_BW[:, -1:]
    drawn_B = torch.searchsorted(cumulative_BW, thresholds_B1, right=True)[:, 0].clamp(max=scores_BW.shape[-1] - 1)
    if all(one.temperature for one in params):
        return drawn_B
    return torch.where(numbers([one.temperature for one in params]) == 0, scores_BW.argmax(-1), drawn_B)


def policies(
    draws: Draws, places: Sequence[int], params: Sequence[SamplingParams], device: torch.device = CPU
) -> list[Policy]:
    """What the tokens at these places were drawn from; `params` are those of these places.

    device: the network's, where the trainer computes the same, and so with the same bits.
    """
    rows = torch.tensor(places)
    scores_BW = draws.scores_BW[rows]
    is_kept_BW = scores_BW > float("-inf")
    drawn_B1 = torch.tensor(draws.token_ids)[rows, None]
    if draws.is_likeliest_BW is not None:
        is_cut_B1 = torch.tensor([[one.is_cut] for one in params])
        is_kept_BW &= draws.is_likeliest_BW[rows] | ~is_cut_B1
    if not all(one.temperature for one in params):
        is_greedy_B1 = torch.tensor([[one.temperature == 0] for one in params])
        is_kept_BW &= torch.zeros_like(is_kept_BW).scatter_(-1, drawn_B1, True) | ~is_greedy_B1
    temperatures_B = torch.tensor([one.temperature or 1.0 for one in params])
    given = (one.to(device) for one in (scores_BW, temperatures_B, is_kept_BW))
    log_probs_B = cut_log_softmax(*given).cpu().gather(-1, drawn_B1)[:, 0]
    kept = [None if is_kept_W.all() else is_kept_W.nonzero()[:, 0].int() for is_kept_W in is_kept_BW]
    return list(map(Policy, log_probs_B.tolist(), kept))


def numbers(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def keep_likeliest(probs_BW: Tensor, top_k_B: Tensor, top_p_B: Tensor, min_p_B: Tensor) -> Tensor:
    """Zero every token that is not one of the `top_k` likeliest, or of the smallest set of these, likeliest first, that
    has `top_p` of their probability, or that is below `min_p` of the likeliest. 0, 1 and 0 cut nothing.
    """
    sorted_BW, order_BW = probs_BW.sort(dim=-1, descending=True, stable=True)
    ranks_W = torch.arange(probs_BW.shape[-1])
    kept_BW = sorted_BW * (ranks_W < top_k_B.masked_fill(top_k_B == 0, float("inf"))[:, None])
    before_BW = kept_BW.cumsum(-1) - kept_BW
    total_B = kept_BW.sum(-1).masked_fill(top_k_B == 0, 1.0)
    # The sum may round to 1 before its end: a row at 1 must not lose that end because a neighbour's is below.
    limit_B = (top_p_B * total_B).masked_fill(top_p_B >= 1, float("inf"))
    is_kept_BW = (before_BW < limit_B[:, None]) & (sorted_BW >= min_p_B[:, None] * sorted_BW[:, :1])
    return torch.zeros_like(probs_BW).scatter(-1, order_BW, kept_BW * is_kept_BW)


def adjusted(log_probs_BW: Tensor, params: Sequence[SamplingParams], written: Sequence[list[int]]) -> Tensor:
    """Scores to draw from: log-probabilities, plus the bias and less the penalties for the tokens `written` so far."""
    rows = [row for row, one in enumerate(params) if one.logit_bias or one.presence_penalty or one.frequency_penalty]
    scores_BW = log_probs_BW.clone() if rows else log_probs_BW
    for row in rows:
        one = params[row]
        ids, counts = torch.tensor(written[row], dtype=torch.long).unique(return_counts=True)
        scores_BW[row, ids] -= one.presence_penalty + one.frequency_penalty * counts
        for token_id, bias in one.logit_bias.items():
            scores_BW[row, token_id] += bias
    return scores_BW


def uniforms(seeds: list[int], places: list[int]) -> Tensor:
    """One float64 in [0, 1) for each (seed, place), by SplitMix64 (Steele, Lea, Flood 2014) over the pair."""
    with np.errstate(over="ignore"):
        state = _mix(np.array(seeds, dtype=np.uint64)) + np.array(places, dtype=np.uint64) * _GOLDEN
        return torch.from_numpy((_mix(state) >> np.uint64(11)).astype(np.float64) * 2.0**-53)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

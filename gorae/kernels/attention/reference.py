"""The definition of attention in plain torch, on a key grid aligned to the start of the sequence.

Forward and backward are written out so that the scores exist once, in place, instead of once an operation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gorae.kernels.tiles import TILE_KEYS, TILE_ROWS, pad_columns, pad_rows


def attention_reference(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    sharing = query.shape[1] // key.shape[1]
    spread = (spread_over(held, sharing) for held in (key, value))
    return ReferenceAttention.apply(query, *spread, mask, scale)  # pyright: ignore[reportReturnType]


def cached_attention_reference(
    query_BTHK: Tensor, keys_NJPK: Tensor, values_NJPV: Tensor, table_BM: Tensor, starts_B: Tensor, scale: float
) -> Tensor:
    num_tokens = query_BTHK.shape[1]
    if not query_BTHK.numel():
        return query_BTHK.new_zeros(*query_BTHK.shape[:3], values_NJPV.shape[-1])
    lengths_B = starts_B + num_tokens
    num_pages = -(-int(lengths_B.max()) // keys_NJPK.shape[2])
    key_BJSK, value_BJSV = (gathered(pages, table_BM[:, :num_pages], lengths_B) for pages in (keys_NJPK, values_NJPV))
    hidden_BTS = torch.arange(key_BJSK.shape[2]) > (starts_B[:, None] + torch.arange(num_tokens))[..., None]
    mask_B1TS = torch.zeros(hidden_BTS.shape).masked_fill_(hidden_BTS, float("-inf"))[:, None]
    return attention_reference(query_BTHK.transpose(1, 2), key_BJSK, value_BJSV, mask_B1TS, scale).transpose(1, 2)


def gathered(pages_NJPK: Tensor, table_BM: Tensor, lengths_B: Tensor) -> Tensor:
    """float32 [B, J, S, K]; zeros behind a sequence's length, since what lies there may be no number."""
    held_BJSK = pages_NJPK[table_BM].transpose(1, 2).flatten(2, 3).float()
    unwritten_BS = torch.arange(held_BJSK.shape[2]) >= lengths_B[:, None]
    return held_BJSK.masked_fill(unwritten_BS[:, None, :, None], 0.0)


def spread_over(held_BJSK: Tensor, sharing: int) -> Tensor:
    """Keys or values for each of the heads that share them."""
    return held_BJSK if sharing == 1 else held_BJSK.repeat_interleave(sharing, dim=1)


class ReferenceAttention(torch.autograd.Function):
    """Scores, largest score, exponentials, weighted values, one division: in this order, a query row at a time."""

    @staticmethod
    def forward(ctx, query_BHTK, key_BHSK, value_BHSV, mask_BTS, scale):
        num_queries, num_keys, width = query_BHTK.shape[-2], *value_BHSV.shape[-2:]
        query = pad_rows(query_BHTK * scale, TILE_ROWS)
        key, value = pad_rows(key_BHSK, TILE_KEYS), pad_columns(pad_rows(value_BHSV, TILE_KEYS))
        hidden_keys, spare_queries = key.shape[-2] - num_keys, query.shape[-2] - num_queries
        mask = F.pad(mask_BTS, (0, hidden_keys), value=float("-inf"))
        scores = query @ key.transpose(-1, -2)
        scores = scores.add_(F.pad(mask, (0, 0, 0, spare_queries)))
        scores.sub_(scores.amax(-1, keepdim=True)).exp_()
        total = paged_sum(scores)
        output = (paged_product(scores, value) / total)[..., :num_queries, :width]
        if any(ctx.needs_input_grad[:3]):
            weights = (scores.div_(total))[..., :num_queries, :num_keys]
            ctx.save_for_backward(query_BHTK, key_BHSK, value_BHSV, weights)
            ctx.scale = scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BHTV):  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value, weights = ctx.saved_tensors
        grad_value = weights.transpose(-1, -2) @ grad_BHTV
        grad_scores = (grad_BHTV @ value.transpose(-1, -2)).mul_(weights)
        grad_scores.addcmul_(weights, grad_scores.sum(-1, keepdim=True), value=-1).mul_(ctx.scale)
        return grad_scores @ key, grad_scores.transpose(-1, -2) @ query, grad_value, None, None


def paged_sum(scores_BHTS: Tensor) -> Tensor:
    """The sum of each row, [B, H, T, 1], page by page, pages added in order: like `paged_product`, but in float64."""
    pages = scores_BHTS.unflatten(-1, (-1, TILE_KEYS)).sum(-1, dtype=torch.float64)
    return pages.cumsum(-1)[..., -1:].float()


def paged_product(scores_BHTS: Tensor, value_BHSV: Tensor) -> Tensor:
    """scores @ value, key page by key page, pages added in order: the sum does not depend on how many pages follow."""
    pages = zip(scores_BHTS.split(TILE_KEYS, dim=-1), value_BHSV.split(TILE_KEYS, dim=-2), strict=True)
    scores, value = next(pages)
    total = scores @ value
    for scores, value in pages:
        total += scores @ value
    return total

"""The definition of attention in plain torch, on a key grid aligned to the start of the sequence.

Forward and backward are written out so that the scores exist once, in place, instead of once an operation. On a GPU
products come in one shape (tiles.py), and scores are computed again for the gradient.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gorae.kernels.tiles import GPU_KEYS, GPU_QUERIES, GPU_SEQUENCES, TILE_KEYS, TILE_ROWS, pad_columns, pad_rows


def attention_reference(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    if not query.is_cpu:
        return TiledAttention.apply(query, key, value, mask, scale)  # pyright: ignore[reportReturnType]
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
    if table_BM.is_cpu:  # a GPU would have to be waited for, and is given no more pages than there are
        table_BM = table_BM[:, : -(-int(lengths_B.max()) // keys_NJPK.shape[2])]
    key_BJSK, value_BJSV = (gathered(pages, table_BM, lengths_B) for pages in (keys_NJPK, values_NJPV))
    key_places_S = torch.arange(key_BJSK.shape[2], device=starts_B.device)
    hidden_BTS = key_places_S > (starts_B[:, None] + key_places_S[:num_tokens])[..., None]
    mask_B1TS = torch.zeros(hidden_BTS.shape, device=starts_B.device).masked_fill_(hidden_BTS, float("-inf"))[:, None]
    return attention_reference(query_BTHK.transpose(1, 2), key_BJSK, value_BJSV, mask_B1TS, scale).transpose(1, 2)


def gathered(pages_NJPK: Tensor, table_BM: Tensor, lengths_B: Tensor) -> Tensor:
    """float32 [B, J, S, K]; zeros behind a sequence's length, since what lies there may be no number."""
    held_BJSK = pages_NJPK[table_BM].transpose(1, 2).flatten(2, 3).float()
    unwritten_BS = torch.arange(held_BJSK.shape[2], device=lengths_B.device) >= lengths_B[:, None]
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
        return *gradients(query, key, value, weights, ctx.scale, grad_BHTV), None, None


def gradients(
    query: Tensor, key: Tensor, value: Tensor, weights: Tensor, scale: float, grad_BHTV: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of query, key and value, from the weights that values were mixed with."""
    grad_value = weights.transpose(-1, -2) @ grad_BHTV
    grad_scores = (grad_BHTV @ value.transpose(-1, -2)).mul_(weights)
    grad_scores.addcmul_(weights, grad_scores.sum(-1, keepdim=True), value=-1).mul_(scale)
    return grad_scores @ key, grad_scores.transpose(-1, -2) @ query, grad_value


def shared_gradients(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, grad_BHTV: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same where heads may share keys and values, and the weights are computed again."""
    sharing = query.shape[1] // key.shape[1]
    key, value = (spread_over(held, sharing) for held in (key, value))
    weights = (query @ key.transpose(-1, -2)).mul_(scale).add_(mask).softmax(-1)
    grad_query, grad_key, grad_value = gradients(query, key, value, weights, scale, grad_BHTV)
    return grad_query, summed_over(grad_key, sharing), summed_over(grad_value, sharing)


def summed_over(grad_BHSK: Tensor, sharing: int) -> Tensor:
    """The gradient of what heads share: theirs together."""
    return grad_BHSK if sharing == 1 else grad_BHSK.unflatten(1, (-1, sharing)).sum(2)


class TiledAttention(torch.autograd.Function):
    """By fixed numbers of sequences, queries and keys: whatever else there is, a query's products have one shape."""

    @staticmethod
    def forward(ctx, query_BHTK, key_BJSK, value_BJSV, mask_BTS, scale):
        ctx.save_for_backward(query_BHTK, key_BJSK, value_BJSV, mask_BTS)
        ctx.scale = scale
        num_sequences, num_heads, num_queries, _ = query_BHTK.shape
        width, sharing = value_BJSV.shape[-1], num_heads // key_BJSK.shape[1]
        query = pad_rows(query_BHTK * scale, GPU_QUERIES).unflatten(2, (-1, GPU_QUERIES)).transpose(1, 2)
        key, value = pad_rows(key_BJSK, GPU_KEYS), pad_columns(pad_rows(value_BJSV, GPU_KEYS))
        mask = F.pad(mask_BTS, (0, key.shape[2] - mask_BTS.shape[-1]), value=float("-inf"))
        mask = pad_rows(mask, GPU_QUERIES).expand(num_sequences, -1, -1, -1)
        mask = mask.unflatten(2, (-1, GPU_QUERIES)).transpose(1, 2)
        num_tiles = query.shape[1]
        items = torch.arange(num_sequences * num_tiles, device=query.device)
        mixed = [query_BHTK.new_empty(0, num_heads, GPU_QUERIES, value.shape[-1])]
        for some in items.split(GPU_SEQUENCES):
            some = F.pad(some, (0, GPU_SEQUENCES - len(some)))
            sequence, tile = some // num_tiles, some % num_tiles
            keys, values = (spread_over(held[sequence], sharing) for held in (key, value))
            mixed.append(mixed_in_order(query[sequence, tile].contiguous(), keys, values, mask[sequence, tile]))
        output = torch.cat(mixed)[: len(items)].unflatten(0, (num_sequences, num_tiles))
        return output.transpose(1, 2).flatten(2, 3)[:, :, :num_queries, :width]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BHTV):  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value, mask = ctx.saved_tensors
        return *shared_gradients(query, key, value, mask, ctx.scale, grad_BHTV), None, None


def mixed_in_order(query_BHTK: Tensor, key_BHSK: Tensor, value_BHSV: Tensor, mask_B1TS: Tensor) -> Tensor:
    """Values under the softmax of scores, `GPU_KEYS` keys at a time, added in order; the sum of weights in float64."""
    keys, values = ([part.contiguous() for part in held.split(GPU_KEYS, dim=-2)] for held in (key_BHSK, value_BHSV))
    masks = mask_B1TS.split(GPU_KEYS, dim=-1)
    scores = [query_BHTK @ key.transpose(-1, -2) + mask for key, mask in zip(keys, masks, strict=True)]
    largest = torch.stack([one.amax(-1, keepdim=True) for one in scores]).amax(0)
    weights = [one.sub_(largest).exp_() for one in scores]
    total, output = weights[0].sum(-1, keepdim=True, dtype=torch.float64), weights[0] @ values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total += weight.sum(-1, keepdim=True, dtype=torch.float64)
        output += weight @ value
    return output / total.float()


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

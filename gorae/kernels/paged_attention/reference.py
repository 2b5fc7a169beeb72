"""The definition of `paged_attention` in plain torch: pages are gathered, then it is `attention`."""

import torch
from torch import Tensor

from gorae.kernels.attention.reference import ReferenceAttention


def paged_attention_reference(
    query_BTHK: Tensor, keys_NJPK: Tensor, values_NJPV: Tensor, table_BM: Tensor, starts_B: Tensor, scale: float
) -> Tensor:
    num_tokens, num_heads = query_BTHK.shape[1:3]
    sharing = num_heads // keys_NJPK.shape[1]
    lengths_B = starts_B + num_tokens
    if not query_BTHK.numel():
        return query_BTHK.new_zeros(*query_BTHK.shape[:3], values_NJPV.shape[-1])
    num_pages = -(-int(lengths_B.max()) // keys_NJPK.shape[2])
    key_BJSK, value_BJSV = (gathered(pages, table_BM[:, :num_pages], lengths_B) for pages in (keys_NJPK, values_NJPV))
    # rows of a key head: the queries of the heads that share it, token by token
    rows_BJNK = query_BTHK.unflatten(2, (-1, sharing)).transpose(1, 2).flatten(2, 3)
    places_BT = starts_B[:, None] + torch.arange(num_tokens)
    hidden_BNS = torch.arange(key_BJSK.shape[2]) > places_BT.repeat_interleave(sharing, dim=1)[..., None]
    mask_B1NS = torch.zeros(hidden_BNS.shape).masked_fill_(hidden_BNS, float("-inf"))[:, None]
    mixed_BJNV = ReferenceAttention.apply(rows_BJNK, key_BJSK, value_BJSV, mask_B1NS, scale)
    return mixed_BJNV.unflatten(2, (num_tokens, sharing)).transpose(1, 2).flatten(2, 3)  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]


def gathered(pages_NJPK: Tensor, table_BM: Tensor, lengths_B: Tensor) -> Tensor:
    """float32 [B, J, S, K]; zeros behind a sequence's length, since what lies there may be no number."""
    held_BJSK = pages_NJPK[table_BM].transpose(1, 2).flatten(2, 3).float()
    unwritten_BS = torch.arange(held_BJSK.shape[2]) >= lengths_B[:, None]
    return held_BJSK.masked_fill(unwritten_BS[:, None, :, None], 0.0)

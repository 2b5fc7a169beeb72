"""The definition of `paged_attention` in plain torch, which is that of `cached_attention`."""

import torch
from torch import Tensor

from gorae.kernels.attention.reference import cached_attention_reference
from gorae.kernels.byte_rows.reference import wide_rows


def paged_attention_reference(
    query_BTHK: Tensor, keys_NJPK: Tensor, values_NJPV: Tensor, table_BM: Tensor, starts_B: Tensor, scale: float
) -> Tensor:
    if keys_NJPK.dtype == torch.int8:
        keys_NJPK, values_NJPV = (wide_rows(pages[table_BM.flatten()]) for pages in (keys_NJPK, values_NJPV))
        table_BM = torch.arange(table_BM.numel(), device=table_BM.device).view_as(table_BM)
    return cached_attention_reference(query_BTHK, keys_NJPK, values_NJPV, table_BM, starts_B, scale)

"""The definition of `paged_attention` in plain torch, which is that of `cached_attention`."""

from torch import Tensor

from gorae.kernels.attention.reference import cached_attention_reference


def paged_attention_reference(
    query_BTHK: Tensor, keys_NJPK: Tensor, values_NJPV: Tensor, table_BM: Tensor, starts_B: Tensor, scale: float
) -> Tensor:
    return cached_attention_reference(query_BTHK, keys_NJPK, values_NJPV, table_BM, starts_B, scale)

"""Causal softmax attention over pages of what is remembered, keys and values or latents that are both: fast mode's.

A page holds `TILE_KEYS` tokens of one sequence. Heads of queries share key heads: grouped attention has several, a
latent is the one key head of all.
"""

import torch
from jaxtyping import Float, Int, Int8
from torch import Tensor

from gorae.kernels.backend import native_for
from gorae.kernels.paged_attention.cpu import paged_attention_cpu
from gorae.kernels.paged_attention.reference import paged_attention_reference


def paged_attention(
    query: Float[Tensor, "B T H K"],
    keys: Float[Tensor, "N J P K"] | Int8[Tensor, "N J P key_bytes"],
    values: Float[Tensor, "N J P V"] | Int8[Tensor, "N J P value_bytes"],
    table: Int[Tensor, "B M"],
    starts: Int[Tensor, "B"],
    scale: float,
) -> Float[Tensor, "B T H V"]:
    """softmax(scale · q kᵀ) v, where query t of sequence b looks at its first starts[b] + t + 1 tokens.

    query float32; keys and values both float32, both bfloat16, or both int8 as `byte_rows` gives them. Token s of
    sequence b lies in page table[b, s // P] at place s % P. Where values are a view of the first numbers of `keys`,
    they are read once. A row's bits follow from the query and the tokens it sees, whatever lies behind these or in
    other pages; narrow numbers give those of the same in float32.
    """
    native = native_for(query, weights=() if keys.dtype == torch.int8 else (keys, values))
    if native is None:
        return paged_attention_reference(query, keys, values, table, starts, scale)
    return paged_attention_cpu(native, query, keys, values, table, starts, scale)

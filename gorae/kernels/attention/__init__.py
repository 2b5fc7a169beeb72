"""Softmax attention in the naive (expanded) form that training and decoding share, exact mode's.

Heads of queries may share the heads of keys and values, evenly: query head h looks at key head h / (H / J).
"""

from jaxtyping import Float, Int
from torch import Tensor

from gorae.kernels.attention.cpu import attention_cpu, cached_attention_cpu
from gorae.kernels.attention.reference import attention_reference, cached_attention_reference
from gorae.kernels.backend import native_for


def attention(
    query: Float[Tensor, "B H T K"],
    key: Float[Tensor, "B J S K"],
    value: Float[Tensor, "B J S V"],
    mask: Float[Tensor, "#B 1 T S"],
    scale: float,
) -> Float[Tensor, "B H T V"]:
    """softmax(scale · q kᵀ + mask) v; `mask` is 0 where a query may look and -inf where it may not.

    Every query must see at least one key. Keys beyond the visible ones change no bit of the result.
    """
    native = native_for(query, key, value, mask)
    if native is None:
        return attention_reference(query, key, value, mask, scale)
    return attention_cpu(native, query, key, value, mask, scale)


def cached_attention(
    query: Float[Tensor, "B T H K"],
    keys: Float[Tensor, "N J P K"],
    values: Float[Tensor, "N J P V"],
    table: Int[Tensor, "B M"],
    starts: Int[Tensor, "B"],
    scale: float,
) -> Float[Tensor, "B T H V"]:
    """`attention` over pages, with its bits: query t of sequence b looks at its first starts[b] + t + 1 tokens.

    Token s of sequence b lies in page table[b, s // P] at place s % P.
    """
    native = native_for(query, keys, values)
    if native is None:
        return cached_attention_reference(query, keys, values, table, starts, scale)
    return cached_attention_cpu(native, query, keys, values, table, starts, scale)

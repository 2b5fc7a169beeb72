"""Softmax attention over a mask of visible keys, in the naive (expanded) form that training and decoding share."""

from jaxtyping import Float
from torch import Tensor

from gorae.kernels.attention.cpu import attention_cpu
from gorae.kernels.attention.reference import ReferenceAttention
from gorae.kernels.backend import native_for


def attention(
    query: Float[Tensor, "B H T K"],
    key: Float[Tensor, "B H S K"],
    value: Float[Tensor, "B H S V"],
    mask: Float[Tensor, "#B 1 T S"],
    scale: float,
) -> Float[Tensor, "B H T V"]:
    """softmax(scale · q kᵀ + mask) v; `mask` is 0 where a query may look and -inf where it may not.

    Every query must see at least one key. Keys beyond the visible ones change no bit of the result.
    """
    native = native_for(query, key, value, mask)
    if native is None:
        return ReferenceAttention.apply(query, key, value, mask, scale)  # pyright: ignore[reportReturnType]
    return attention_cpu(native, query, key, value, mask, scale)

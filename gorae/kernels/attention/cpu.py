"""Attention by the compiled kernel (cpu.cc); its gradient recomputes the weights and takes PyTorch's products."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gorae.kernels.attention.reference import shared_gradients
from gorae.kernels.backend import wants_gradient

PART = 64  # keys that are looked at together where a sequence lies whole


def attention_cpu(native: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    if wants_gradient(query, key, value):
        return NativeAttention.apply(native, query, key, value, mask, scale)  # pyright: ignore[reportReturnType]
    return attended(native, query, key, value, mask, scale)


class NativeAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, native: Any, query_BHTK, key_BHSK, value_BHSV, mask_B1TS, scale) -> Tensor:
        ctx.save_for_backward(query_BHTK, key_BHSK, value_BHSV, mask_B1TS)
        ctx.scale = scale
        return attended(native, query_BHTK, key_BHSK, value_BHSV, mask_B1TS, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BHTV: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value, mask = ctx.saved_tensors
        return None, *shared_gradients(query, key, value, mask, ctx.scale, grad_BHTV), None, None


def attended(native: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """[B, H, T, V], laid out as [B, T, H, V], which is how the next product reads it."""
    operands = (query, key, value, mask)
    query, key, value, mask = (held if held.stride(-1) == 1 else held.contiguous() for held in operands)
    (num_sequences, num_heads, num_queries, key_width), (num_keys, value_width) = query.shape, value.shape[-2:]
    key_heads = key.shape[1]
    assert key.shape == (num_sequences, key_heads, num_keys, key_width), f"keys {key.shape} for queries {query.shape}"
    assert num_heads % max(1, key_heads) == 0, f"{num_heads} heads can not share {key_heads}"
    assert value.shape[:2] == key.shape[:2], f"values {value.shape} for keys {key.shape}"
    assert mask.shape[-2:] == (num_queries, num_keys), f"mask {mask.shape} for {num_queries} queries, {num_keys} keys"
    y = torch.empty(num_sequences, num_queries, num_heads, value_width)
    seen = torch.empty(mask.shape[0] * num_queries, dtype=torch.long)
    native.attention(
        (query.data_ptr(), *query.stride()[:3]),
        *((held.data_ptr(), PART * held.stride(2), *held.stride()[1:3]) for held in (key, value)),
        ((0, key.stride(0), PART), (0, value.stride(0), PART)),
        0,
        (mask.data_ptr(), mask.stride(0) if mask.shape[0] > 1 else 0, mask.stride(2)),
        (num_sequences, num_heads, key_heads, num_queries, num_keys, key_width, value_width),
        scale,
        seen.data_ptr(),
        y.data_ptr(),
        torch.get_num_threads(),
    )
    return y.transpose(1, 2)


def cached_attention_cpu(
    native: Any, query: Tensor, keys: Tensor, values: Tensor, table: Tensor, starts: Tensor, scale: float
) -> Tensor:
    assert not wants_gradient(query, keys, values), "attention over pages has no gradient"
    assert table.device == starts.device == query.device, f"pages on the CPU, their table on {table.device}"
    query = query if query.stride(-1) == 1 else query.contiguous()
    num_sequences, num_queries, num_heads, key_width = query.shape
    _, key_heads, page_tokens, value_width = values.shape
    assert keys.shape == (*values.shape[:3], key_width), f"keys {keys.shape} for values {values.shape}"
    assert keys.stride(-1) == values.stride(-1) == 1, "the numbers of a token lie side by side"
    table, starts = table if table.stride(-1) == 1 else table.contiguous(), starts.contiguous()
    y = torch.empty(num_sequences, num_queries, num_heads, value_width)
    seen = torch.empty(num_sequences * num_queries, dtype=torch.long)
    places = (table.data_ptr(), table.stride(0), page_tokens)
    native.attention(
        (query.data_ptr(), query.stride(0), query.stride(2), query.stride(1)),
        *((pages.data_ptr(), *pages.stride()[:3]) for pages in (keys, values)),
        (places, places),
        starts.data_ptr(),
        (0, 0, 0),
        (num_sequences, num_heads, key_heads, num_queries, table.shape[1] * page_tokens, key_width, value_width),
        scale,
        seen.data_ptr(),
        y.data_ptr(),
        torch.get_num_threads(),
    )
    return y

"""Attention by the compiled kernel (cpu.cc); its gradient recomputes the weights and takes PyTorch's products."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gorae.kernels.backend import wants_gradient


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
        weights = (query @ key.transpose(-1, -2)).mul_(ctx.scale).add_(mask).softmax(-1)
        grad_value = weights.transpose(-1, -2) @ grad_BHTV
        grad_scores = (grad_BHTV @ value.transpose(-1, -2)).mul_(weights)
        grad_scores.addcmul_(weights, grad_scores.sum(-1, keepdim=True), value=-1).mul_(ctx.scale)
        return None, grad_scores @ key, grad_scores.transpose(-1, -2) @ query, grad_value, None, None


def attended(native: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """[B, H, T, V], laid out as [B, T, H, V], which is how the next product reads it."""
    operands = (query, key, value, mask)
    query, key, value, mask = (held if held.stride(-1) == 1 else held.contiguous() for held in operands)
    (num_sequences, num_heads, num_queries, key_width), (num_keys, value_width) = query.shape, value.shape[-2:]
    assert key.shape == (num_sequences, num_heads, num_keys, key_width), f"keys {key.shape} for queries {query.shape}"
    assert value.shape[:2] == key.shape[:2], f"values {value.shape} for keys {key.shape}"
    assert mask.shape[-2:] == (num_queries, num_keys), f"mask {mask.shape} for {num_queries} queries, {num_keys} keys"
    y = torch.empty(num_sequences, num_queries, num_heads, value_width)
    seen = torch.empty(mask.shape[0] * num_queries, dtype=torch.long)
    native.attention(
        *((held.data_ptr(), *held.stride()[:3]) for held in (query, key, value)),
        (mask.data_ptr(), mask.stride(0) if mask.shape[0] > 1 else 0, mask.stride(2)),
        (num_sequences, num_heads, num_queries, num_keys, key_width, value_width),
        scale,
        seen.data_ptr(),
        y.data_ptr(),
        torch.get_num_threads(),
    )
    return y.transpose(1, 2)

"""Grouped-query attention (arXiv 2305.13245), that of the dense models: several query heads share a key/value head.

J stands for the heads of keys and values.
"""

import torch
from torch import Tensor, nn

from gorae.config import ModelConfig
from gorae.kernels import attention, cached_attention, linear, paged_attention, rotate
from gorae.model.bias import bias, shifted
from gorae.model.cache import LayerMemory, own_pages
from gorae.model.rope import softmax_scale
from gorae.model.tree import Tree


class GroupedAttention(nn.Module):
    """Plain heads, wholly rotated; biases as the config has them. Fast mode remembers fewer bits of a number."""

    is_fast = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        heads, key_heads, model = config.num_heads, config.key_heads, config.model_dim
        self.query_HKD = nn.Parameter(torch.empty(heads * config.key_dim, model))
        self.key_JKD = nn.Parameter(torch.empty(key_heads * config.key_dim, model))
        self.value_JVD = nn.Parameter(torch.empty(key_heads * config.value_dim, model))
        self.output_DHV = nn.Parameter(torch.empty(model, heads * config.value_dim))
        self.query_bias_HK = bias(heads * config.key_dim, config.attention_bias)
        self.key_bias_JK = bias(key_heads * config.key_dim, config.attention_bias)
        self.value_bias_JV = bias(key_heads * config.value_dim, config.attention_bias)
        self.output_bias_D = bias(model, config.output_bias)

    def forward(
        self, x_BTD: Tensor, angles: Tensor, mask_B1TS: Tensor | Tree | None, memory: LayerMemory | None = None
    ) -> Tensor:
        config = self.config
        query_BHTK = heads_of(shifted(linear(x_BTD, self.query_HKD), self.query_bias_HK), config.num_heads)
        key_BJTK = heads_of(shifted(linear(x_BTD, self.key_JKD), self.key_bias_JK), config.key_heads)
        value_BJTV = heads_of(shifted(linear(x_BTD, self.value_JVD), self.value_bias_JV), config.key_heads)
        query_BHTK = rotate(query_BHTK, angles, interleaved=config.rope_interleaved)
        key_BJTK = rotate(key_BJTK, angles, interleaved=config.rope_interleaved)
        mixed_BTHV = self.attend(query_BHTK, key_BJTK, value_BJTV, mask_B1TS, memory)
        return shifted(linear(mixed_BTHV.flatten(2), self.output_DHV), self.output_bias_D)

    def attend(
        self,
        query_BHTK: Tensor,
        key_BJTK: Tensor,
        value_BJTV: Tensor,
        mask_B1TS: Tensor | Tree | None,
        memory: LayerMemory | None,
    ) -> Tensor:
        """In fast mode keys and values are rounded to the cache's type before they are used, even without a cache."""
        scale = softmax_scale(self.config)
        if self.is_fast:
            held = memory.extend(key_BJTK, value_BJTV) if memory else own_pages(key_BJTK, value_BJTV)
            return paged_attention(query_BHTK.transpose(1, 2), *held, scale)
        if memory is not None:
            return cached_attention(query_BHTK.transpose(1, 2), *memory.extend(key_BJTK, value_BJTV), scale)
        assert mask_B1TS is not None, "whole sequences are looked at through a mask"
        if isinstance(mask_B1TS, Tree):
            return mask_B1TS.attend(query_BHTK, key_BJTK, value_BJTV, scale)
        return attention(query_BHTK, key_BJTK, value_BJTV, mask_B1TS, scale).transpose(1, 2)


def heads_of(x_BTO: Tensor, num_heads: int) -> Tensor:
    """[B, T, heads · width] as [B, heads, T, width]."""
    return x_BTO.unflatten(-1, (num_heads, -1)).transpose(1, 2)

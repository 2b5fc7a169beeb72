"""Grouped-query attention (arXiv 2305.13245), that of the dense models: several query heads share a key/value head.

J stands for the heads of keys and values.
"""

import torch
from torch import Tensor, nn

from gorae.config import ModelConfig
from gorae.kernels import attention, linear, rotate
from gorae.model.bias import bias, shifted
from gorae.model.cache import LayerMemory
from gorae.model.rope import softmax_scale


class GroupedAttention(nn.Module):
    """Plain heads, wholly rotated; biases as the config has them."""

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
        self, x_BTD: Tensor, angles: Tensor, mask_B1TS: Tensor | None, memory: LayerMemory | None = None
    ) -> Tensor:
        assert mask_B1TS is not None, "plain heads look through a mask"
        config = self.config
        query_BHTK = heads_of(shifted(linear(x_BTD, self.query_HKD), self.query_bias_HK), config.num_heads)
        key_BJSK = heads_of(shifted(linear(x_BTD, self.key_JKD), self.key_bias_JK), config.key_heads)
        value_BJSV = heads_of(shifted(linear(x_BTD, self.value_JVD), self.value_bias_JV), config.key_heads)
        query_BHTK = rotate(query_BHTK, angles, interleaved=config.rope_interleaved)
        key_BJSK = rotate(key_BJSK, angles, interleaved=config.rope_interleaved)
        if memory is not None:
            key_BJSK, value_BJSV = memory.extend(key_BJSK, value_BJSV)
        sharing = config.num_heads // config.key_heads
        key_BHSK, value_BHSV = (held.repeat_interleave(sharing, dim=1) for held in (key_BJSK, value_BJSV))
        mixed_BHTV = attention(query_BHTK, key_BHSK, value_BHSV, mask_B1TS, softmax_scale(config))
        return shifted(linear(mixed_BHTV.transpose(1, 2).flatten(2), self.output_DHV), self.output_bias_D)


def heads_of(x_BTO: Tensor, num_heads: int) -> Tensor:
    """[B, T, heads · width] as [B, heads, T, width]."""
    return x_BTO.unflatten(-1, (num_heads, -1)).transpose(1, 2)

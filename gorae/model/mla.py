"""Multi-head latent attention (arXiv 2405.04434, section 2.1), naive and absorbed side by side.

Queries and keys/values pass through low-rank latents; position travels in a rotary part whose key all heads share. The
naive form expands keys and values: exact mode, and so training. The absorbed form takes queries to the latents instead,
and remembers a latent and a rotary key a token: fast mode. Both are the same function but for rounding. There a key
is both, side by side: K = C + R.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gorae.config import ModelConfig
from gorae.kernels import (
    Weight,
    attention,
    cached_attention,
    head_linear,
    linear,
    paged_attention,
    rms_norm,
    rotate,
    whole,
)
from gorae.model.cache import LayerMemory, own_pages
from gorae.model.rope import softmax_scale
from gorae.model.tree import Tree

LATENT_NORM_EPS = 1e-6  # published code normalises latents with this, whatever its rms_norm_eps


class LatentAttention(nn.Module):
    """In fast mode the two matrices of `Absorbed`, made of `latent_up_HKVC`, stand in its place."""

    is_fast = False
    key_absorb_HCK: Weight
    value_up_HVC: Weight

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.latent_dim is not None, "without a latent there is GroupedAttention"
        self.config = config
        heads, latent, rope = config.num_heads, config.latent_dim, config.rope_dim
        if config.query_rank is None:
            self.query_HKD = nn.Parameter(torch.empty(heads * config.key_dim, config.model_dim))
        else:
            self.query_down_QD = nn.Parameter(torch.empty(config.query_rank, config.model_dim))
            self.query_norm_Q = nn.Parameter(torch.ones(config.query_rank))
            self.query_up_HKQ = nn.Parameter(torch.empty(heads * config.key_dim, config.query_rank))
        self.latent_down_CRD = nn.Parameter(torch.empty(latent + rope, config.model_dim))
        self.latent_norm_C = nn.Parameter(torch.ones(latent))
        self.latent_up_HKVC = nn.Parameter(torch.empty(heads * (config.nope_dim + config.value_dim), latent))
        self.output_DHV = nn.Parameter(torch.empty(config.model_dim, heads * config.value_dim))

    def forward(
        self, x_BTD: Tensor, angles: Tensor, mask_B1TS: Tensor | Tree | None, memory: LayerMemory | None = None
    ) -> Tensor:
        mixed_BTHV = (
            self.absorbed(x_BTD, angles, memory) if self.is_fast else self.naive(x_BTD, angles, mask_B1TS, memory)
        )
        return linear(mixed_BTHV.flatten(2), self.output_DHV)

    def naive(
        self, x_BTD: Tensor, angles: Tensor, mask_B1TS: Tensor | Tree | None, memory: LayerMemory | None
    ) -> Tensor:
        query_BHTK = torch.cat(self.query(x_BTD, angles), dim=-1)
        key_BHTK, value_BHTV = self.key_value(x_BTD, angles)
        scale = softmax_scale(self.config)
        if memory is not None:
            return cached_attention(query_BHTK.transpose(1, 2), *memory.extend(key_BHTK, value_BHTV), scale)
        assert mask_B1TS is not None, "whole sequences are looked at through a mask"
        if isinstance(mask_B1TS, Tree):
            return mask_B1TS.attend(query_BHTK, key_BHTK, value_BHTV, scale)
        return attention(query_BHTK, key_BHTK, value_BHTV, mask_B1TS, scale).transpose(1, 2)

    def absorbed(self, x_BTD: Tensor, angles: Tensor, memory: LayerMemory | None) -> Tensor:
        """The latents are rounded to the cache's type before they are used, with a cache and without."""
        latent_BTC, rope_B1TR = self.latent_and_rope(x_BTD, angles)
        key_B1TK = torch.cat((latent_BTC[:, None], rope_B1TR), dim=-1)
        held = memory.extend(key_B1TK) if memory else own_pages(key_B1TK, latent_dim=self.config.latent_dim)
        nope, rope = (part.transpose(1, 2) for part in self.query(x_BTD, angles))
        query_BTHK = torch.cat((head_linear(nope, self.key_absorb_HCK), rope), dim=-1)
        return head_linear(paged_attention(query_BTHK, *held, softmax_scale(self.config)), self.value_up_HVC)

    def query(self, x_BTD: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
        """The parts without position and with it, [B, H, T, ·]."""
        if self.config.query_rank is None:
            flat = linear(x_BTD, self.query_HKD)
        else:
            latent_BTQ = rms_norm(linear(x_BTD, self.query_down_QD), self.query_norm_Q, LATENT_NORM_EPS)
            flat = linear(latent_BTQ, self.query_up_HKQ)
        query_BTHK = flat.unflatten(-1, (self.config.num_heads, -1))
        nope, rope = query_BTHK.transpose(1, 2).split((self.config.nope_dim, self.config.rope_dim), dim=-1)
        return nope, rotate(rope, angles, interleaved=self.config.rope_interleaved)

    def latent_and_rope(self, x_BTD: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
        """The latent [B, T, C], and the rotary key that all heads share, [B, 1, T, R]."""
        config = self.config
        latent, rope = linear(x_BTD, self.latent_down_CRD).split((config.latent_dim, config.rope_dim), dim=-1)
        latent_BTC = rms_norm(latent, self.latent_norm_C, LATENT_NORM_EPS)
        return latent_BTC, rotate(rope[:, None], angles, interleaved=config.rope_interleaved)

    def key_value(self, x_BTD: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        latent_BSC, shared_B1SR = self.latent_and_rope(x_BTD, angles)
        expanded_BSHKV = linear(latent_BSC, self.latent_up_HKVC).unflatten(-1, (config.num_heads, -1))
        nope, value_BHSV = expanded_BSHKV.transpose(1, 2).split((config.nope_dim, config.value_dim), dim=-1)
        key_BHSK = torch.cat((nope, shared_B1SR.expand(-1, config.num_heads, -1, -1)), dim=-1)
        return key_BHSK, value_BHSV


class Absorbed(NamedTuple):
    """What stands for an up-projection [H · (nope + V), C] in the absorbed form: the same numbers in another order.

    key_absorb_HCK: [H · C, nope]; row h · C + c has what query number k of head h adds to latent number c.
    value_up_HVC: [H · V, C]; row h · V + v has what latent number c adds to value number v of head h.
    """

    key_absorb_HCK: Tensor
    value_up_HVC: Tensor


def absorbed_matrices(latent_up_HKVC: Weight, config: ModelConfig) -> Absorbed:
    """The two matrices of an up-projection; in bfloat16 if it is, else float32."""
    is_narrow = isinstance(latent_up_HKVC, Tensor) and latent_up_HKVC.dtype == torch.bfloat16
    rows = whole(latent_up_HKVC, torch.bfloat16 if is_narrow else torch.float32)
    by_head = rows.unflatten(0, (config.num_heads, -1))
    key_HKC, value_HVC = by_head.split((config.nope_dim, config.value_dim), dim=1)
    return Absorbed(key_HKC.transpose(1, 2).flatten(0, 1).contiguous(), value_HVC.flatten(0, 1).contiguous())

"""One layer: attention and feed-forward, each normalised before and added to the stream."""

import torch
from torch import Tensor, nn

from gorae.config import ModelConfig
from gorae.kernels import Routing, rms_norm
from gorae.model.cache import LayerMemory
from gorae.model.gqa import GroupedAttention
from gorae.model.mla import LatentAttention
from gorae.model.moe import MixtureOfExperts, Replay, SwiGLU
from gorae.model.tree import Tree


class Block(nn.Module):
    def __init__(self, config: ModelConfig, *, dense: bool) -> None:
        super().__init__()
        self.norm_eps = config.norm_eps
        self.attention_norm_D = nn.Parameter(torch.ones(config.model_dim))
        self.attention = GroupedAttention(config) if config.latent_dim is None else LatentAttention(config)
        self.feed_forward_norm_D = nn.Parameter(torch.ones(config.model_dim))
        self.feed_forward = (
            SwiGLU(config.model_dim, config.dense_dim, biased=config.feed_forward_bias)
            if dense
            else MixtureOfExperts(config)
        )

    def forward(
        self,
        x_BTD: Tensor,
        angles: Tensor,
        mask_B1TS: Tensor | Tree | None,
        memory: LayerMemory | None = None,
        replay: Replay | None = None,
    ) -> tuple[Tensor, Routing | None]:
        normed = rms_norm(x_BTD, self.attention_norm_D, self.norm_eps)
        x_BTD = x_BTD + self.attention(normed, angles, mask_B1TS, memory)
        normed = rms_norm(x_BTD, self.feed_forward_norm_D, self.norm_eps)
        if isinstance(self.feed_forward, SwiGLU):
            return x_BTD + self.feed_forward(normed), None
        mixed, routing = self.feed_forward(normed, replay)
        return x_BTD + mixed, routing

"""Multi-token prediction: from a token's features and the next token, the token after (arXiv 2412.19437, 2.2)."""

import torch
from torch import Tensor, nn

from gorae.config import ModelConfig
from gorae.kernels import Routing, linear, rms_norm
from gorae.model.block import Block
from gorae.model.cache import LayerMemory


class NextTokenModule(nn.Module):
    """One further depth of prediction; embedding and output head are the network's own."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm_eps = config.norm_eps
        self.embedding_norm_D = nn.Parameter(torch.ones(config.model_dim))
        self.hidden_norm_D = nn.Parameter(torch.ones(config.model_dim))
        self.join_DDD = nn.Parameter(torch.empty(config.model_dim, 2 * config.model_dim))
        self.block = Block(config, dense=False)
        self.head_norm_D = nn.Parameter(torch.ones(config.model_dim))

    def forward(
        self,
        hidden_BTD: Tensor,
        next_embedding_BTD: Tensor,
        angles: Tensor,
        mask_B1TS: Tensor | None,
        memory: LayerMemory | None = None,
    ) -> tuple[Tensor, Routing | None]:
        """Features that the head turns into the token two places on; `hidden` is the previous depth's output."""
        embedding = rms_norm(next_embedding_BTD, self.embedding_norm_D, self.norm_eps)
        hidden = rms_norm(hidden_BTD, self.hidden_norm_D, self.norm_eps)
        joined = linear(torch.cat((embedding, hidden), dim=-1), self.join_DDD)
        mixed, routing = self.block(joined, angles, mask_B1TS, memory)
        return rms_norm(mixed, self.head_norm_D, self.norm_eps), routing

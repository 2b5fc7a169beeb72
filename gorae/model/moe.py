"""DeepSeekMoE (arXiv 2401.06066): fine-grained routed experts, shared experts; also the first layers' dense SwiGLU.

The router's bias is a buffer: training moves it by rule, not by gradient (arXiv 2408.15664).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gorae.config import ModelConfig
from gorae.kernels import Routing, expert_mlp, expert_weights, gated_mlp, linear, route, swiglu
from gorae.model.bias import bias, shifted


class Replay(NamedTuple):
    """Ways that N packed tokens took elsewhere; a token whose experts are -1 goes its own."""

    experts_NA: Tensor
    weights_NA: Tensor


class SwiGLU(nn.Module):
    """A dense feed-forward: the first layers' and the shared experts'."""

    def __init__(self, model_dim: int, hidden_dim: int, *, biased: bool = False) -> None:
        super().__init__()
        self.gate_FD = nn.Parameter(torch.empty(hidden_dim, model_dim))
        self.up_FD = nn.Parameter(torch.empty(hidden_dim, model_dim))
        self.down_DF = nn.Parameter(torch.empty(model_dim, hidden_dim))
        self.gate_bias_F = bias(hidden_dim, biased)
        self.up_bias_F = bias(hidden_dim, biased)
        self.down_bias_D = bias(model_dim, biased)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate_bias_F is None and self.up_bias_F is None and self.down_bias_D is None:
            return gated_mlp(x, self.gate_FD, self.up_FD, self.down_DF)
        gate, up = linear(x, self.gate_FD), linear(x, self.up_FD)
        hidden = swiglu(shifted(gate, self.gate_bias_F), shifted(up, self.up_bias_F))
        return shifted(linear(hidden, self.down_DF), self.down_bias_D)


class MixtureOfExperts(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        experts, model, width = config.num_experts, config.model_dim, config.expert_dim
        self.router_ED = nn.Parameter(torch.empty(experts, model))
        self.bias_E = nn.Buffer(torch.zeros(experts)) if config.router == "sigmoid" else None
        self.gate_EFD = nn.Parameter(torch.empty(experts, width, model))
        self.up_EFD = nn.Parameter(torch.empty(experts, width, model))
        self.down_EDF = nn.Parameter(torch.empty(experts, model, width))
        self.shared = SwiGLU(model, config.shared_dim) if config.num_shared_experts else None

    def forward(self, x_BTD: Tensor, replay: Replay | None = None) -> tuple[Tensor, Routing]:
        x_ND = x_BTD.flatten(0, 1)
        routing = self.route(x_ND)
        if replay is not None:
            routing = self.replayed(routing, replay)
        y_ND = expert_mlp(x_ND, routing.experts_NA, routing.weights_NA, self.gate_EFD, self.up_EFD, self.down_EDF)
        if self.shared is not None:
            y_ND = y_ND + self.shared(x_ND)
        return y_ND.view_as(x_BTD), routing

    def route(self, x_ND: Tensor) -> Routing:
        config = self.config
        return route(
            linear(x_ND, self.router_ED),
            self.bias_E,
            num_active=config.num_active_experts,
            scores=config.router,
            num_groups=config.num_expert_groups,
            num_active_groups=config.num_active_groups,
            normalize=config.normalize_routing,
            scale=config.routing_scale,
        )

    def replayed(self, own: Routing, replay: Replay) -> Routing:
        """Experts and weights of elsewhere, with the gradient of the token's own scores of these experts."""
        config = self.config
        is_own_N1 = replay.experts_NA[:, :1] < 0
        experts_NA = torch.where(is_own_N1, own.experts_NA, replay.experts_NA.to(own.experts_NA.dtype))
        weights_NA = expert_weights(
            own.scores_NE,
            experts_NA,
            kind=config.router,
            normalize=config.normalize_routing,
            scale=config.routing_scale,
        )
        weights_NA = replay.weights_NA + (weights_NA - weights_NA.detach())  # the difference is 0
        return Routing(own.scores_NE, experts_NA, torch.where(is_own_N1, own.weights_NA, weights_NA))

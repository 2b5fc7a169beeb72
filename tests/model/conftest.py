from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gorae.config import ModelConfig, RopeScaling
from gorae.model import Network

# Odd widths and few experts a group: what whole tiles must pad.
SMALL = ModelConfig(
    vocab_size=97,
    model_dim=21,
    num_layers=3,
    num_heads=3,
    query_rank=13,
    latent_dim=11,
    nope_dim=7,
    rope_dim=6,
    value_dim=5,
    dense_dim=27,
    expert_dim=9,
    num_experts=8,
    num_active_experts=3,
    num_expert_groups=4,
    num_active_groups=2,
    num_dense_layers=1,
    routing_scale=2.5,
    num_mtp_modules=2,
    init_std=0.3,
)


V2 = replace(
    SMALL,
    query_rank=None,
    router="softmax",
    normalize_routing=False,
    num_mtp_modules=0,
    rope_scaling=RopeScaling("yarn", 4.0, 16, mscale=1.0, mscale_all_dim=0.7),
)
DENSE = ModelConfig.dense(
    vocab_size=97,
    model_dim=21,
    num_layers=3,
    num_heads=6,
    head_dim=6,
    dense_dim=27,
    num_key_heads=2,
    init_std=0.3,
    attention_bias=True,
    output_bias=True,
    feed_forward_bias=True,
    tie_embeddings=True,
    rope_scaling=RopeScaling("llama3", 8.0, 16, fast_turns=4.0),
)


@pytest.fixture
def config() -> ModelConfig:
    return SMALL


@pytest.fixture(params=[SMALL, V2, DENSE], ids=["v3", "v2", "dense"])
def every_config(request) -> ModelConfig:
    return request.param


@pytest.fixture
def network(config: ModelConfig) -> Network:
    """Weights large enough that every part counts; norms and router biases are drawn too."""
    generator = torch.Generator().manual_seed(0)
    network = Network(config, seed=1)
    for name, tensor in network.state_dict().items():
        if tensor.ndim == 1:
            middle = 0.0 if "bias" in name else 1.0
            tensor.copy_(middle + 0.2 * torch.randn(tensor.shape, generator=generator))
    return network


@pytest.fixture(name="tokens_BT")
def tokens(config: ModelConfig) -> Tensor:
    return torch.randint(config.vocab_size, (4, 40), generator=torch.Generator().manual_seed(2))

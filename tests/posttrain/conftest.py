import pytest
import torch

from gorae.checkpoint import Model
from gorae.config import ModelConfig
from gorae.engine import Engine
from gorae.model import Network
from gorae.posttrain import sample_rollouts

SMALL = ModelConfig(
    vocab_size=67,
    model_dim=24,
    num_layers=3,
    num_heads=2,
    query_rank=14,
    latent_dim=12,
    nope_dim=10,
    rope_dim=6,
    value_dim=8,
    dense_dim=28,
    expert_dim=9,
    num_experts=8,
    num_active_experts=3,
    num_expert_groups=4,
    num_active_groups=2,
    max_positions=256,
    init_std=0.2,
)


@pytest.fixture
def config() -> ModelConfig:
    return SMALL


@pytest.fixture
def model() -> Model:
    """Random weights, router biases too: a test may change them."""
    network = Network(SMALL, seed=1)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith("bias_E"):
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return Model(network.eval(), SMALL, None)


@pytest.fixture
def prompts() -> list[list[int]]:
    """Ragged, two of them equal, one of a single token."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(3, 67, (length,), generator=generator).tolist() for length in (5, 1, 33, 64, 8)]
    return [*drawn, drawn[2]]


@pytest.fixture
def roll(model, prompts):
    """Rollouts of the model on the first prompts; the reward counts even tokens unless another is given."""

    def roll(params, *, num_prompts: int = 3, num_samples: int = 4, seed: int = 0, reward=None, max_batch: int = 256):
        reward = reward or (lambda number, output: sum(token % 2 == 0 for token in output.token_ids) / 10)
        engine = Engine(model, max_batch=max_batch)
        return sample_rollouts(engine, prompts[:num_prompts], reward, num_samples=num_samples, params=params, seed=seed)

    return roll

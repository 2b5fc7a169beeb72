"""A network quantised in memory has the bits of its folder converted and loaded, and follows it as it learns."""

import pytest
import torch

from gorae.checkpoint import convert, load, quantise_again, quantised, save_model
from gorae.config import ModelConfig
from gorae.model import Network, tensors_held

SHAPES = {
    "mla, experts": ModelConfig(
        vocab_size=67,
        model_dim=32,
        num_layers=3,
        num_heads=2,
        query_rank=14,
        latent_dim=32,
        nope_dim=10,
        rope_dim=6,
        value_dim=8,
        dense_dim=28,
        expert_dim=9,
        num_experts=4,
        num_active_experts=2,
        num_mtp_modules=1,
    ),
    "dense": ModelConfig.dense(
        vocab_size=50, model_dim=32, num_layers=2, num_heads=2, num_key_heads=1, head_dim=16, dense_dim=40
    ),
}
ROWS = torch.arange(3, 43).view(2, 20)


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def network(request) -> Network:
    return Network(request.param, seed=1).eval()


@torch.no_grad()
def logits(network: Network) -> torch.Tensor:
    return network.logits(network(ROWS).hidden_BTD)


@pytest.mark.parametrize("to", ["int8", "int4"])
def test_it_has_the_bits_of_its_folder_converted_and_loaded(network, to, tmp_path):
    save_model(tmp_path / "plain", network)
    convert(tmp_path / "plain", tmp_path / to, to)
    copy = quantised(network, to)
    assert copy.is_fast
    assert torch.equal(logits(copy), logits(load(tmp_path / to).network))
    assert not torch.equal(logits(copy), logits(network))


def test_it_follows_a_network_that_learns_in_its_own_memory(network):
    copy = quantised(network, "int4")
    before = logits(copy)
    held = [tensor.data_ptr() for module in copy.modules() for _, tensor in tensors_held(module)]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(logits(copy), before), "it shares no memory with what learns"
    quantise_again(copy, network, "int4")
    assert [tensor.data_ptr() for module in copy.modules() for _, tensor in tensors_held(module)] == held
    assert not torch.equal(logits(copy), before)
    assert torch.equal(logits(copy), logits(quantised(network, "int4")))

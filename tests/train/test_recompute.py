"""Blocks computed twice: the same gradients to the bit, for less memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch

from gorae.config import ModelConfig
from gorae.model import Network
from gorae.train import Batch, pretraining_loss, supervised_loss, token_log_probs
from gorae.train import loss as losses

DENSE = ModelConfig.dense(
    vocab_size=61, model_dim=24, num_layers=3, num_heads=6, head_dim=4, num_key_heads=2, dense_dim=30,
    attention_bias=True, init_std=0.2,
)  # fmt: skip


@pytest.fixture(params=["latent", "grouped"])
def shape(request, config) -> ModelConfig:
    return config if request.param == "latent" else DENSE


@pytest.fixture
def batch() -> Batch:
    tokens = torch.randint(0, 61, (3, 37), generator=torch.Generator().manual_seed(0))
    return Batch(tokens, torch.ones(tokens.shape))


@contextmanager
def kept_bytes() -> Iterator[list[int]]:
    """What autograd keeps, a tensor at a time, each memory once."""
    seen: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    found: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield found
    found.append(sum(seen.values()))


def gradients(network: Network, batch: Batch) -> dict[str, torch.Tensor]:
    loss = partial(pretraining_loss, mtp_weight=0.3, balance_weight=0.1) if network.mtp else supervised_loss
    found = loss(network, batch)
    found.total.backward()
    made = {name: one.grad for name, one in network.named_parameters()}
    network.zero_grad()
    return made | {f"experts {layer}": one.experts_NA for layer, one in enumerate(found.routings)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_the_same_to_the_bit_with_blocks_computed_twice(shape, batch, dtype):
    network = Network(shape, seed=1)
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype if parameter.ndim > 1 else torch.float32)
    expected = gradients(network, batch)
    network.recompute_blocks = True
    found = gradients(network, batch)
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        assert one.abs().sum() > 0, name
        assert torch.equal(found[name], one), name


def test_a_block_keeps_no_more_than_what_goes_into_it(batch):
    network = Network(DENSE, seed=1)
    weights = sum(one.nbytes for one in network.parameters())
    kept = []
    for recomputes in (False, True):
        network.recompute_blocks = recomputes
        with kept_bytes() as found:
            network(batch.token_ids_BT)
        kept += found
    streams = (DENSE.num_layers + 2) * batch.num_tokens * DENSE.model_dim * 4
    assert kept[1] < kept[0] / 3
    assert kept[1] <= weights + streams + 4 * 37 * 37 + 8 * batch.num_tokens + 4096


def test_without_a_gradient_blocks_are_computed_once(batch, monkeypatch):
    network = Network(DENSE, seed=1)
    network.recompute_blocks = True
    monkeypatch.setattr(network, "recomputed", None)
    with torch.no_grad():
        network(batch.token_ids_BT)


def test_a_large_vocabulary_is_looked_at_in_parts(batch, monkeypatch):
    """The same log-probabilities; gradients of the head are sums of the parts', the same ones when computed twice."""
    network = Network(DENSE, seed=1)
    targets_N = batch.token_ids_BT[:, 1:].flatten()

    def scored() -> list[torch.Tensor]:
        hidden_ND = network(batch.token_ids_BT[:, :-1]).hidden_BTD.flatten(0, 1)
        log_probs_N = token_log_probs(network, hidden_ND, targets_N)
        log_probs_N.sum().backward()
        made = [log_probs_N.detach(), *(one.grad for one in network.parameters())]
        network.zero_grad()
        return made

    whole = scored()
    monkeypatch.setattr(losses, "HEAD_NUMBERS", 61 * 10)
    parts = scored()
    network.recompute_blocks = True
    again = scored()
    assert torch.equal(parts[0], whole[0])
    for one, other in zip(parts, again, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one, other)

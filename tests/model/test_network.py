import inspect

import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped

from gorae import kernels
from gorae.config import ModelConfig
from gorae.model import Cache, Network, block, gqa, mla, moe, mtp
from gorae.model import network as network_module


@pytest.fixture
def config(every_config) -> ModelConfig:
    return every_config


@torch.no_grad()
def test_a_later_token_changes_nothing_before_it(network, config, tokens_BT):
    whole = network(tokens_BT)
    for place in (1, 8, 31, 32, 39):
        changed_BT = tokens_BT.clone()
        changed_BT[:, place:] = (changed_BT[:, place:] + 1) % config.vocab_size
        found = network(changed_BT)
        assert torch.equal(found.hidden_BTD[:, :place], whole.hidden_BTD[:, :place])
        assert not torch.equal(found.hidden_BTD[:, place], whole.hidden_BTD[:, place])


@torch.no_grad()
def test_every_earlier_token_counts(network, config, tokens_BT):
    last = network(tokens_BT).hidden_BTD[:, -1]
    for place in (0, 17, 38):
        changed_BT = tokens_BT.clone()
        changed_BT[:, place] = (changed_BT[:, place] + 1) % config.vocab_size
        assert not torch.equal(network(changed_BT).hidden_BTD[:, -1], last)


@torch.no_grad()
def test_a_sequence_alone_has_the_bits_it_has_in_a_batch_and_with_padding(network, tokens_BT):
    whole = network(tokens_BT)
    for row, length in ((0, 40), (1, 1), (2, 33), (3, 7)):
        alone = network(tokens_BT[row : row + 1, :length])
        assert torch.equal(alone.hidden_BTD[0], whole.hidden_BTD[row, :length])
        for ours, theirs in zip(alone.routings, whole.routings, strict=True):
            for one, many in zip(ours, theirs, strict=True):
                assert torch.equal(one, many.unflatten(0, tokens_BT.shape)[row, :length])


@torch.no_grad()
def test_one_and_two_threads_give_the_same_bits(network, tokens_BT):
    before = torch.get_num_threads()
    found = []
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        found.append(network.logits(network(tokens_BT.repeat(8, 4)).hidden_BTD).log_softmax(-1))
    torch.set_num_threads(before)
    assert torch.equal(*found)


@torch.no_grad()
def test_reading_then_decoding_gives_the_bits_of_the_whole_forward(network, config):
    """Rows of unequal lengths share every step; the longest goes past 200 positions."""
    lengths, num_steps = (1, 9, 64, 150), 60
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(config.vocab_size, (len(lengths), max(lengths) + num_steps), generator=generator)
    wholes = [
        network(tokens_BT[row : row + 1, : length + num_steps]).hidden_BTD[0] for row, length in enumerate(lengths)
    ]
    cache = Cache(config, len(lengths) + 1)
    read = network(tokens_BT[:, : max(lengths)], cache)  # what stands beyond a row's length is padding
    for row, length in enumerate(lengths):
        assert torch.equal(read.hidden_BTD[row, :length], wholes[row][:length])
    cache.lengths_B[: len(lengths)] = torch.tensor(lengths)
    for step in range(num_steps):
        new_BT = torch.stack([tokens_BT[row, length + step] for row, length in enumerate(lengths)])[:, None]
        hidden_BTD = network(new_BT, cache, slice(0, len(lengths))).hidden_BTD
        cache.lengths_B[: len(lengths)] += 1
        for row, length in enumerate(lengths):
            assert torch.equal(hidden_BTD[row, 0], wholes[row][length + step])


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 7, 32, 50])
def test_reading_in_chunks_gives_the_bits_of_reading_at_once(network, config, tokens_BT, chunk):
    tokens_BT = tokens_BT.repeat(1, 3)
    whole = network(tokens_BT).hidden_BTD
    cache = Cache(config, len(tokens_BT))
    parts = []
    for part_BT in tokens_BT.split(chunk, dim=1):
        parts.append(network(part_BT, cache).hidden_BTD)
        cache.lengths_B += part_BT.shape[1]
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_weights_follow_the_seed(config):
    one, again, other = (Network(config, seed=seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["embedding_WD"], other["embedding_WD"])
    assert abs(one["embedding_WD"].std().item() - config.init_std) < 0.1 * config.init_std
    assert all(held.eq(1).all() for name, held in one.items() if "norm" in name)


def test_no_tokens_give_no_features(network, config):
    assert network(torch.zeros(2, 0, dtype=torch.long)).hidden_BTD.shape == (2, 0, config.model_dim)


def test_every_parameter_gets_a_gradient(network, tokens_BT):
    features = network(tokens_BT)
    hidden = [features.hidden_BTD, *(further.hidden_BTD for further in network.predict_further(features, tokens_BT))]
    sum(network.logits(part).log_softmax(-1).square().mean() for part in hidden).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_the_network_hands_every_kernel_the_shapes_its_door_promises(network, config, tokens_BT, monkeypatch):
    used = set()

    def checked(name, door):
        typed = jaxtyped(typechecker=beartype)(door)

        def run(*arguments, **named):
            used.add(name)
            return typed(*arguments, **named)

        return run

    doors = {name: door for name in kernels.__all__ if inspect.isfunction(door := getattr(kernels, name))}
    for module in (block, gqa, mla, moe, mtp, network_module):
        for name, door in doors.items():
            if vars(module).get(name) is door:
                monkeypatch.setattr(module, name, checked(name, door))
    cache = Cache(config, 4)
    with torch.no_grad():
        network(tokens_BT, cache)
        cache.lengths_B += tokens_BT.shape[1]
        network(tokens_BT[:, :1], cache)
    network.predict_further(network(tokens_BT), tokens_BT)
    assert used >= {"linear", "rms_norm", "attention", "cached_attention", "rotate", "rotary_angles"}
    assert used & {"swiglu", "gated_mlp"}
    assert ({"route", "expert_mlp"} <= used) == (config.num_experts > 0)

"""Fast mode's law: a token's bits follow from the weights and the tokens before it, though in another form."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from gorae.config import CacheType, ModelConfig
from gorae.kernels import backend, pack
from gorae.model import Cache, Network, cache, made_fast


@pytest.fixture
def config(every_config) -> ModelConfig:
    return every_config


@pytest.fixture(params=[backend.REFERENCE, *list(backend.COMPILED)[:1]], autouse=True)
def kernels_in_use(request, monkeypatch) -> str:
    monkeypatch.setattr(backend, "CHOSEN", request.param)
    return request.param


@pytest.fixture(name="fast")
def fast_network(network) -> Network:
    return made_fast(deepcopy(network))


def cache_for(network: Network, num_rows: int, cache_type: CacheType | None = None) -> Cache:
    return Cache(network.config, num_rows, is_fast=network.is_fast, cache_type=cache_type)


@torch.no_grad()
def test_fast_mode_differs_from_exact_mode_by_rounding(network, fast, tokens_BT):
    assert fast.is_fast
    assert not network.is_fast
    exact, found = (one.logits(one(tokens_BT).hidden_BTD).log_softmax(-1) for one in (network, fast))
    kl_BT = (exact.exp() * (exact - found)).sum(-1)
    # latents keep 8 bits of their numbers, and a token in a hundred goes to another expert for that
    assert kl_BT.median() < 3e-5
    assert kl_BT.quantile(0.97) < 1e-2


@torch.no_grad()
def test_int8_differs_from_bfloat16_by_rounding(fast, config):
    tokens_BT = torch.randint(config.vocab_size, (6, 150), generator=torch.Generator().manual_seed(2))

    def log_probs(cache_type: CacheType) -> Tensor:
        hidden_BTD = fast(tokens_BT, cache_for(fast, 6, cache_type)).hidden_BTD
        return fast.logits(hidden_BTD).log_softmax(-1)

    wide, half, narrow = (log_probs(one) for one in ("float32", "bfloat16", "int8"))
    for other in (wide, half):
        kl_BT = (other.exp() * (other - narrow)).sum(-1)
        # up to 2.1e-4 and 1.8e-3 for three draws; bfloat16 beside float32 2.7e-5 and 1.8e-4. A token in some dozens
        # goes to another expert of these random ones, and differs by up to 0.6
        assert 0 < kl_BT.median() < 5e-4
        assert kl_BT.quantile(0.9) < 5e-3


@torch.no_grad()
def test_with_latents_in_float32_both_forms_are_the_same_function(network, fast, tokens_BT, monkeypatch):
    monkeypatch.setattr(cache, "FAST_TYPE", torch.float32)
    # float32 through three layers: rounding of about 1e-6 of logits of some ten
    torch.testing.assert_close(
        fast.logits(fast(tokens_BT).hidden_BTD), network.logits(network(tokens_BT).hidden_BTD), rtol=0, atol=2e-4
    )


@torch.no_grad()
def test_reading_then_decoding_gives_the_bits_of_the_whole_forward(fast, config):
    lengths, num_steps = (1, 9, 64, 290), 40
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(config.vocab_size, (len(lengths), max(lengths) + num_steps), generator=generator)
    wholes = [fast(tokens_BT[row : row + 1, : length + num_steps]).hidden_BTD[0] for row, length in enumerate(lengths)]
    memory = cache_for(fast, len(lengths) + 1)
    read = fast(tokens_BT[:, : max(lengths)], memory)
    for row, length in enumerate(lengths):
        assert torch.equal(read.hidden_BTD[row, :length], wholes[row][:length])
    memory.lengths_B[: len(lengths)] = torch.tensor(lengths)
    for step in range(num_steps):
        new_BT = torch.stack([tokens_BT[row, length + step] for row, length in enumerate(lengths)])[:, None]
        hidden_BTD = fast(new_BT, memory, slice(0, len(lengths))).hidden_BTD
        memory.lengths_B[: len(lengths)] += 1
        for row, length in enumerate(lengths):
            assert torch.equal(hidden_BTD[row, 0], wholes[row][length + step])


@torch.no_grad()
@pytest.mark.parametrize("cache_type", [None, "int8"])
@pytest.mark.parametrize("chunk", [1, 7, 32, 50])
def test_reading_in_chunks_gives_the_bits_of_reading_at_once(fast, tokens_BT, chunk, cache_type):
    tokens_BT = tokens_BT.repeat(1, 3)
    whole = fast(tokens_BT, cache_for(fast, len(tokens_BT), cache_type) if cache_type else None).hidden_BTD
    memory, parts = cache_for(fast, len(tokens_BT), cache_type), []
    for part_BT in tokens_BT.split(chunk, dim=1):
        parts.append(fast(part_BT, memory).hidden_BTD)
        memory.lengths_B += part_BT.shape[1]
    assert torch.equal(torch.cat(parts, dim=1), whole)


@torch.no_grad()
def test_one_and_two_threads_give_the_same_bits(fast, tokens_BT):
    before, found = torch.get_num_threads(), []
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        found.append(fast.logits(fast(tokens_BT.repeat(2, 8)).hidden_BTD))
    torch.set_num_threads(before)
    assert torch.equal(*found)


@torch.no_grad()
def test_further_tokens_are_predicted_in_fast_mode_too(network, fast, tokens_BT, monkeypatch):
    monkeypatch.setattr(cache, "FAST_TYPE", torch.float32)
    exact, found = (one.predict_further(one(tokens_BT), tokens_BT) for one in (network, fast))
    assert len(exact) == len(found) == len(network.mtp)
    for one, other in zip(exact, found, strict=True):
        # features of about 1 behind four layers in float32
        torch.testing.assert_close(one.hidden_BTD, other.hidden_BTD, rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_absorbed_matrices_may_be_panels(fast, config, tokens_BT):
    if config.latent_dim is None:
        pytest.skip("plain heads absorb nothing")
    found = []
    for held in (lambda weight: nn.Parameter(weight.bfloat16().float()), lambda weight: pack(weight, 16)):
        for attention in fast.attentions():
            for name in ("key_absorb_HCK", "value_up_HVC"):
                weight = getattr(attention, name)
                delattr(attention, name)
                setattr(attention, name, held(weight))
        found.append(fast(tokens_BT).hidden_BTD)
    assert torch.equal(*found)

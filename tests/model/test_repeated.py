"""Passes that are recorded and repeated are the network's own, to the bit."""

from copy import deepcopy

import pytest
import torch

from gorae.config import CacheType, ModelConfig
from gorae.kernels import TILE_KEYS, backend
from gorae.model import Cache, Network, RepeatedPasses, made_fast

pytestmark = pytest.mark.skipif(backend.CHOSEN not in backend.COMPILED, reason="only compiled kernels are recorded")


@pytest.fixture
def config(every_config) -> ModelConfig:
    return every_config


@pytest.fixture(params=["exact", "fast"], autouse=True)
def network(request, network) -> Network:
    return made_fast(network) if request.param == "fast" else network


def cache_of(network: Network, num_rows: int, *, num_pages: int = 40, cache_type: CacheType | None = None) -> Cache:
    cache = Cache(network.config, num_pages=num_pages, is_fast=network.is_fast, cache_type=cache_type)
    for _ in range(num_rows):
        cache.add_row()
    return cache


@torch.inference_mode()
def walk(network: Network, num_rows: int, lengths, *, repeats: bool, cache_type: CacheType | None = None):
    """Passes of so many tokens each, one after the other; all that they yield, and the passes where they repeat."""
    cache, draw = cache_of(network, num_rows, cache_type=cache_type), torch.Generator().manual_seed(5)
    passes = RepeatedPasses(network, cache)
    rows, found = slice(0, num_rows), []
    for num_tokens in lengths:
        tokens_BT = torch.randint(network.config.vocab_size, (num_rows, num_tokens), generator=draw)
        for row in range(num_rows):
            cache.reserve(row, int(cache.lengths_B[row]) + num_tokens)
        features = passes(tokens_BT, rows) if repeats else network(tokens_BT, cache, rows)
        cache.lengths_B[rows] += num_tokens
        found.append((features.hidden_BTD, *(part.clone() for one in features.routings for part in one)))
    return found, passes


@pytest.mark.parametrize("num_rows", [1, 3])
def test_a_repeated_pass_gives_the_bits_of_the_network(network, num_rows):
    lengths = [TILE_KEYS - 3, *[1] * 8, 2, 2, 1, 2, *[1] * 4]  # over the end of a page, and so of the table
    expected, _ = walk(network, num_rows, lengths, repeats=False)
    found, passes = walk(network, num_rows, lengths, repeats=True)
    assert len(passes.passes) == 3, "one token and two, and one before the table grew"
    assert all(passes.passes.values())
    for ours, theirs in zip(found, expected, strict=True):
        assert all(map(torch.equal, ours, theirs))


def test_a_repeated_pass_over_any_type_of_cache_gives_the_bits_of_the_network(network):
    lengths = [TILE_KEYS - 3, *[1] * 8, 2, 2, 2]
    for cache_type in ["float32", "int8"] if network.is_fast else ["float32"]:
        expected, _ = walk(network, 3, lengths, repeats=False, cache_type=cache_type)
        found, passes = walk(network, 3, lengths, repeats=True, cache_type=cache_type)
        assert all(passes.passes.values())
        assert all(all(map(torch.equal, ours, theirs)) for ours, theirs in zip(found, expected, strict=True))


def test_what_a_pass_gave_stays_when_it_is_repeated(network):
    found, _ = walk(network, 2, [5, 1, 1, 1, 1], repeats=True)
    hidden = [features[0] for features in found[2:]]
    assert not torch.equal(hidden[0], hidden[1])
    assert not torch.equal(hidden[1], hidden[2])


@torch.inference_mode()
def test_weights_changed_in_their_place_are_read(network):
    cache, tokens_BT, rows = cache_of(network, 1), torch.tensor([[3]]), slice(0, 1)
    cache.reserve(0, 9)
    passes = RepeatedPasses(network, cache)
    before = [passes(tokens_BT, rows).hidden_BTD for _ in range(3)]
    assert torch.equal(before[0], before[2])
    network.blocks[1].feed_forward_norm_D.mul_(1.5)
    assert passes.has_its_weights()
    after = passes(tokens_BT, rows).hidden_BTD
    assert torch.equal(after, network(tokens_BT, cache, rows).hidden_BTD)
    assert not torch.equal(after, before[2])


def test_weights_put_elsewhere_are_noticed(network):
    passes = RepeatedPasses(network, cache_of(network, 1))
    assert passes.has_its_weights()
    network.norm_D.data = network.norm_D.data.clone()
    assert not passes.has_its_weights()


@torch.inference_mode()
def test_passes_too_large_for_the_arena_are_computed_each_time(network, monkeypatch):
    monkeypatch.setattr("gorae.model.repeated.MOST_BYTES", 1000)
    lengths = [1] * 5
    expected, _ = walk(network, 1, lengths, repeats=False)
    found, passes = walk(network, 1, lengths, repeats=True)
    assert list(passes.passes.values()) == [None]
    assert all(all(map(torch.equal, ours, theirs)) for ours, theirs in zip(found, expected, strict=True))


def test_no_more_passes_are_kept_than_there_is_room_for(network, monkeypatch):
    monkeypatch.setattr("gorae.model.repeated.MOST_PASSES", 2)
    _, passes = walk(network, 1, [1, 1, 2, 2, 3, 3, 2, 3], repeats=True)
    assert [shape.num_tokens for shape in passes.passes] == [2, 3]


def test_without_compiled_kernels_nothing_is_repeated(network, monkeypatch):
    monkeypatch.setattr(backend, "CHOSEN", backend.REFERENCE)
    _, passes = walk(deepcopy(network), 1, [1] * 4, repeats=True)
    assert list(passes.passes.values()) == [None]

"""How much of a prompt a pass reads: much where nobody waits, less while requests run, and never a bit of a reply."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
import torch

from gorae import Engine, SamplingParams
from gorae.checkpoint import Model
from gorae.config import ModelConfig, pass_bytes_per_token
from gorae.engine import scheduler
from gorae.kernels import kernels_in_use
from gorae.model import Cache, Network, made_fast
from gorae.model.mla import LatentAttention

from .conftest import SMALL

EVERY_TOKEN = SamplingParams(max_tokens=5, seed=1, ignore_eos=True, logprobs=300)


@pytest.fixture(scope="module", params=[False, True], ids=["exact", "fast"])
def either(request, model) -> Model:
    return Model(made_fast(Network(SMALL, seed=1).eval()), SMALL, None) if request.param else model


@pytest.fixture
def passes(either) -> Iterator[list[tuple[int, ...]]]:
    """Sequences and tokens of every pass of reading."""
    shapes: list[tuple[int, ...]] = []
    hook = either.network.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    yield shapes
    hook.remove()


def drawn(seed: int, num_tokens: int) -> list[int]:
    return torch.randint(3, 300, (num_tokens,), generator=torch.Generator().manual_seed(seed)).tolist()


LONG, SHORT = drawn(1, 150), drawn(2, 5)


def both_sizes(model, **options) -> Engine:
    return Engine(model, prefill_tokens=96, prefill_tokens_while_running=32, **options)


def until_done(engine: Engine, request_id: int) -> list[int]:
    tokens = []
    while True:
        for event in engine.step():
            if event.request_id == request_id:
                tokens.append(event.token_id)
                if event.finish_reason:
                    return tokens


def test_a_prompt_that_nobody_waits_for_is_read_in_long_passes(either, passes):
    both_sizes(either).generate([LONG], EVERY_TOKEN)
    assert [shape for shape in passes if shape[1] > 1] == [(1, 96), (1, 54)]


def test_a_prompt_beside_running_requests_is_read_in_short_passes(either, passes):
    engine = both_sizes(either)
    engine.add(SHORT, replace(EVERY_TOKEN, max_tokens=30))
    engine.step()
    until_done(engine, engine.add(LONG, EVERY_TOKEN))
    assert [shape for shape in passes if shape[1] > 1] == [(1, 5), *[(1, 32)] * 4, (1, 22)]


def test_passes_grow_as_soon_as_the_last_running_request_has_ended(either, passes):
    engine = both_sizes(either)
    engine.add(SHORT, replace(EVERY_TOKEN, max_tokens=2))
    engine.step()
    until_done(engine, engine.add(LONG, EVERY_TOKEN))
    assert [shape for shape in passes if shape[1] > 1] == [(1, 5), (1, 32), (1, 96), (1, 22)]


def test_prompts_that_wait_together_share_a_long_pass_and_beside_running_requests_short_ones(either, passes):
    params = replace(EVERY_TOKEN, max_tokens=40)
    for among_running in (False, True):
        engine = both_sizes(either)
        if among_running:
            engine.add(SHORT, params)
            engine.step()
        del passes[:]
        for seed in range(6):
            engine.add(drawn(seed, 15), params)
        while engine.waiting:
            engine.step()
        assert [shape for shape in passes if shape[1] > 1] == ([(2, 15)] * 3 if among_running else [(6, 15)])


def test_every_probability_has_the_same_bits_in_passes_of_any_size_and_of_both(either):
    alone = Engine(either, prefix_cache=False).generate([LONG], EVERY_TOKEN)[0].top_logprobs
    for sizes in ((32, 32), (96, 32), (128, 64), (160, 32)):
        for num_neighbours, num_steps in ((0, 0), (1, 2), (3, 30)):
            engine = Engine(either, prefill_tokens=sizes[0], prefill_tokens_while_running=sizes[1])
            for seed in range(num_neighbours):
                engine.add(drawn(9 + seed, 20), SamplingParams(max_tokens=num_steps, ignore_eos=True))
            engine.step()
            assert engine.generate([LONG], EVERY_TOKEN)[0].top_logprobs == alone


def test_in_exact_mode_a_latent_is_expanded_once_however_many_chunks_follow(model, monkeypatch):
    expanded, expand = [], LatentAttention.key_value

    def counted(attention, x_BTD, angles):
        expanded.append(x_BTD.shape[1])
        return expand(attention, x_BTD, angles)

    monkeypatch.setattr(LatentAttention, "key_value", counted)
    engine, params = Engine(model, prefill_tokens=32), SamplingParams(max_tokens=1)
    engine.generate([LONG], params)
    assert sum(expanded) == SMALL.num_layers * len(LONG)
    del expanded[:]
    engine.generate([[*LONG[:130], *SHORT]], params)
    assert sum(expanded) == SMALL.num_layers * (130 + len(SHORT) - 128)


def test_a_pass_of_running_requests_is_never_longer_than_one_that_nobody_waits_for(either):
    engine = Engine(either, prefill_tokens=32)
    assert engine.prefill_tokens_while_running == 32
    with pytest.raises(ValueError, match="prefill_tokens_while_running=33 must be 32 or a multiple of it"):
        Engine(either, prefill_tokens_while_running=33)


@pytest.fixture
def machine(monkeypatch):
    """Lets the engine see a machine of so much memory, available and in all."""

    def machine(available_bytes: float, total_bytes: float = 1e12) -> None:
        monkeypatch.setattr("gorae.engine.shortage.memory_bytes", lambda: (int(available_bytes), int(total_bytes)))

    return machine


def test_by_default_a_pass_is_as_long_as_pays_and_as_an_eighth_of_the_memory_has_room_for(either, machine):
    token_bytes = pass_bytes_per_token(SMALL, is_fast=either.network.is_fast)
    for available_tokens, expected in ((1e6, 2048), (1000, 992), (64, 64), (3, 32)):
        machine(8 * token_bytes * (available_tokens + 0.5))
        assert Engine(either, cache_tokens=320).prefill_tokens == expected


def test_weights_that_come_from_the_disk_in_every_pass_are_read_for_more_tokens(either, machine, monkeypatch):
    weight_bytes = sum(weight.nbytes for weight in either.network.parameters())
    machine(1e9, 1.5 * weight_bytes)
    assert Engine(either, cache_tokens=320).prefill_tokens == (2048 if kernels_in_use() == "reference" else 8192)
    monkeypatch.setattr(scheduler, "kernels_in_use", lambda: "reference")
    assert Engine(either, cache_tokens=320).prefill_tokens == 2048
    machine(1e9, 4 * weight_bytes)
    assert Engine(either, cache_tokens=320).prefill_tokens == 2048


V2 = ModelConfig(
    vocab_size=50,
    model_dim=64,
    num_layers=2,
    num_heads=4,
    query_rank=None,
    latent_dim=32,
    nope_dim=16,
    rope_dim=8,
    value_dim=16,
    dense_dim=128,
    expert_dim=32,
    num_experts=8,
    num_active_experts=3,
)
DENSE = ModelConfig.dense(vocab_size=50, model_dim=64, num_layers=2, num_heads=4, head_dim=16, dense_dim=192)
SHAPES = {
    "experts": V2,
    "a query latent": replace(V2, query_rank=24),
    "many heads": replace(V2, num_heads=32),
    "wide latents": replace(V2, num_heads=16, latent_dim=96, rope_dim=24),
    "dense": DENSE,
    "shared key heads": replace(DENSE, num_heads=16, num_key_heads=2),
}


@torch.inference_mode()
def most_bytes_held(network: Network, num_tokens: int) -> int:
    """By PyTorch's allocator, at any moment of a pass."""
    cache = Cache(network.config, num_pages=num_tokens // 32, is_fast=network.is_fast)
    cache.add_row()
    cache.reserve(0, num_tokens)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        network(torch.zeros(1, num_tokens, dtype=torch.long), cache, slice(0, 1))
    results: Any = profile.profiler
    steps = [event.nbytes() for event in results.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(steps))


@pytest.mark.skipif(kernels_in_use() == "reference", reason="the reference's attention holds all scores")
@pytest.mark.parametrize("is_fast", [False, True], ids=["exact", "fast"])
@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_a_pass_holds_what_the_count_says_a_token_and_not_half_of_it(config, is_fast):
    network = made_fast(Network(config)) if is_fast else Network(config)
    per_token = (most_bytes_held(network, 512) - most_bytes_held(network, 256)) / 256
    counted = pass_bytes_per_token(config, is_fast=is_fast)
    assert counted / 2 < per_token <= counted

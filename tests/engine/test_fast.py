"""In fast mode, too, what a request gets depends on the weights, its prompt and its parameters, and on nothing else.

So with every type of cache; int8 is tried on latents and heads of more than one group of 32, and of less.
"""

from dataclasses import replace
from functools import partial
from random import Random

import pytest
import torch

from gorae import Engine, SamplingParams
from gorae.checkpoint import Model
from gorae.config import ModelConfig, RopeScaling, cache_bytes_per_token
from gorae.kernels import kernels_in_use
from gorae.model import Network, made_fast

V3 = ModelConfig(
    vocab_size=120,
    model_dim=20,
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
    max_positions=400,
    init_std=0.3,
)
V2 = replace(V3, query_rank=None, router="softmax", normalize_routing=False)
DENSE = {"vocab_size": 120, "model_dim": 21, "num_layers": 2, "num_heads": 6, "head_dim": 6, "dense_dim": 27}
QWEN = ModelConfig.dense(**DENSE, num_key_heads=2, init_std=0.3, attention_bias=True, max_positions=400)
LLAMA = replace(QWEN, attention_bias=False, rope_scaling=RopeScaling("llama3", 8.0, 16, fast_turns=4.0))

EVERY_TOKEN = SamplingParams(max_tokens=6, seed=1, ignore_eos=True, logprobs=120)


WIDE = replace(V3, latent_dim=70, num_mtp_modules=1)
CASES = {
    "v3": (V3, None),
    "v2": (V2, None),
    "qwen2": (QWEN, None),
    "llama": (LLAMA, None),
    "v3-float32": (V3, "float32"),
    "v3-int8": (WIDE, "int8"),
    "v2-int8": (V2, "int8"),
    "qwen2-int8": (replace(QWEN, rope_dim=36, value_dim=36), "int8"),
}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def fast(case) -> Model:
    config, _ = case
    return Model(made_fast(Network(config, seed=1).eval()), config, None)


@pytest.fixture(scope="module")
def engine_of(fast, case):
    """An engine over the model, with the case's type of cache."""
    return partial(Engine, fast, cache_type=case[1])


def texts(seed: int, lengths: list[int]) -> list[list[int]]:
    random = Random(seed)
    return [[random.randrange(3, 120) for _ in range(length)] for length in lengths]


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    return texts(2, [300])[0]


@pytest.fixture(scope="module")
def alone(engine_of, prompt) -> list[dict[int, float]]:
    """The log-probabilities of all tokens at every place of a reply, read at once, with nothing beside it."""
    return distributions(engine_of(prefix_cache=False), prompt)


def distributions(engine, prompt):
    top_logprobs = engine.generate([prompt], EVERY_TOKEN)[0].top_logprobs
    assert top_logprobs is not None
    return top_logprobs


@pytest.mark.parametrize("prefill_tokens", [32, 96, 2048])
def test_alone_or_among_17_strangers_and_in_chunks_every_probability_has_the_same_bits(
    engine_of, prompt, alone, prefill_tokens
):
    strangers = texts(3, [140, *range(1, 65, 4)])
    engine = engine_of(prefill_tokens=prefill_tokens)
    rest = [SamplingParams(max_tokens=3 + seed, seed=seed, ignore_eos=True) for seed in range(17)]
    among = engine.generate([*strangers, prompt], [*rest, EVERY_TOKEN])[-1]
    assert among.top_logprobs == alone
    again = engine.generate([prompt], EVERY_TOKEN)[0]
    assert again.top_logprobs == alone
    assert again.num_cached == 288


def test_read_token_by_token_every_probability_has_the_same_bits(engine_of, prompt, alone):
    """The same distributions, of a request that decodes the last part of the prompt."""
    engine, bias = engine_of(), SamplingParams(max_tokens=1, temperature=0.0)
    written = list(prompt[:280])
    for token_id in prompt[280:]:
        request = engine.add(written, replace(bias, max_tokens=50, logit_bias={token_id: 1e4}, ignore_eos=True))
        event = engine.step()[0]
        written.append(event.token_id)
        engine.step()
        engine.cancel(request)
    assert written == prompt
    assert distributions(engine, prompt) == alone


def test_after_preemptions_every_probability_has_the_same_bits(engine_of, prompt, alone):
    engine = engine_of(prefill_tokens=64, prefix_cache=False)
    engine.add(texts(4, [70])[0], SamplingParams(max_tokens=40, ignore_eos=True))
    engine.add(prompt, EVERY_TOKEN)
    request = engine.waiting[-1]
    while request.finish_reason is None:
        if request in engine.running and engine.stats.preemptions < 3:
            engine.preempt()
        engine.step()
    assert request.output(None).top_logprobs == alone
    assert engine.stats.preemptions == 3


def test_with_one_thread_and_two_every_probability_has_the_same_bits(engine_of, prompt, alone):
    before = torch.get_num_threads()
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        assert distributions(engine_of(prefill_tokens=96), prompt) == alone
    torch.set_num_threads(before)


def test_behind_pages_of_a_folder_every_probability_has_the_same_bits(engine_of, prompt, alone, tmp_path):
    assert distributions(engine_of(prefix_folder=tmp_path), prompt) == alone
    again = engine_of(prefix_folder=tmp_path).generate([prompt], EVERY_TOKEN)[0]
    assert again.top_logprobs == alone
    assert again.num_cached == 288


def test_with_speculation_every_probability_has_the_same_bits(engine_of, fast):
    params = replace(EVERY_TOKEN, max_tokens=40, temperature=0.0)
    prompts = [one * 6 for one in texts(6, [9, 14])]
    expected = engine_of().generate(prompts, params)
    for speculation in ["ngram", "mtp"] if fast.network.mtp else ["ngram"]:
        engine = engine_of(speculation=speculation)
        assert engine.generate(prompts, params) == expected
        assert engine.stats.drafted > engine.stats.accepted


def test_passes_of_decoding_are_repeated_and_none_is_left_out(engine_of, prompt):
    engine = engine_of()
    engine.generate([prompt], EVERY_TOKEN)
    passes = engine.runner.passes.passes
    if kernels_in_use() == "reference":
        pytest.skip("only compiled kernels are repeated")
    assert passes
    assert all(passes.values())


def test_the_cache_takes_what_the_config_says(engine_of, fast, case):
    layers = engine_of(cache_tokens=64).runner.cache.layers
    held = sum(pages.nbytes for kinds in layers for pages in kinds)
    # page 0 is nobody's
    assert held == (32 + 64) * cache_bytes_per_token(fast.config, is_fast=True, cache_type=case[1])


def test_in_int8_a_token_takes_053_of_its_bytes_in_bfloat16():
    for config in (replace(V3, latent_dim=512, rope_dim=64), replace(QWEN, rope_dim=128, value_dim=128)):
        narrow, half = (cache_bytes_per_token(config, is_fast=True, cache_type=one) for one in ("int8", "bfloat16"))
        assert narrow / half == (32 + 2) / 64


def test_exact_mode_takes_no_other_type_and_nobody_one_that_is_none():
    exact = Model(Network(V3, seed=1).eval(), V3, None)
    assert Engine(exact, cache_type="float32", cache_tokens=64).runner.cache.layers[0][0].dtype == torch.float32
    with pytest.raises(ValueError, match="cache_type=int8 rounds what exact mode remembers; load the model with mode="):
        Engine(exact, cache_type="int8")
    with pytest.raises(ValueError, match="cache_type=int4 is none of float32, bfloat16, int8"):
        Engine(exact, cache_type="int4")  # pyright: ignore[reportArgumentType]

"""With speculation and without: the same tokens, log-probabilities and ends, bit for bit, in fewer passes."""

from collections import defaultdict
from dataclasses import replace
from itertools import count
from random import Random

import pytest
import torch

from gorae import Engine, SamplingParams
from gorae.checkpoint import Model
from gorae.config import ModelConfig, forward_flops
from gorae.model import Network, made_fast

V3 = ModelConfig(
    vocab_size=60,
    model_dim=16,
    num_layers=2,
    num_heads=2,
    query_rank=10,
    latent_dim=8,
    nope_dim=6,
    rope_dim=4,
    value_dim=6,
    dense_dim=20,
    expert_dim=8,
    num_experts=4,
    num_active_experts=2,
    num_mtp_modules=1,
    max_positions=256,
    eos_id=None,
    init_std=0.15,
)
V2 = replace(V3, query_rank=None, router="softmax", normalize_routing=False, num_mtp_modules=0)
DENSE = ModelConfig.dense(
    vocab_size=60,
    model_dim=16,
    num_layers=2,
    num_heads=4,
    head_dim=6,
    num_key_heads=2,
    dense_dim=20,
    max_positions=256,
    eos_id=None,
    init_std=0.15,
)
SHAPES = {"v3": V3, "v2": V2, "dense": DENSE}
MODES = [("v3", "ngram"), ("v3", "mtp"), ("v3", "auto"), ("v2", "ngram"), ("v2", "auto"), ("dense", "ngram")]


def peaked(config: ModelConfig) -> Model:
    """A network with habits: what likely follows a token depends on that token most, in cycles of twelve."""
    network = Network(config, seed=1).eval()
    with torch.no_grad():
        tokens = torch.arange(config.vocab_size)
        network.embedding_WD.normal_(generator=torch.Generator().manual_seed(4))
        network.head_WD[tokens // 12 * 12 + (tokens + 5) % 12] = 0.4 * network.embedding_WD
        for module in network.mtp:  # reads the next token alone, and passes it on as it is
            module.join_DDD.zero_()
            module.join_DDD[:, : config.model_dim] = torch.eye(config.model_dim)
            module.hidden_norm_D.zero_()
    return Model(network, config, None)


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {name: peaked(config) for name, config in SHAPES.items()}


def engine_of(model: Model, mode: str, **options) -> Engine:
    """An engine by whose clock every pass takes equally long, so that what "auto" does follows from the tokens."""
    engine = Engine(model, speculation=mode, **options)
    engine.speculation.clock = count().__next__
    return engine


def texts(seed: int, lengths: list[int]) -> list[list[int]]:
    random = Random(seed)
    return [[random.randrange(3, 60) for _ in range(length)] for length in lengths]


PROMPTS = texts(1, [1, 2, 31, 32, 40, 63, 64, 70])
PARAMS = [
    SamplingParams(
        max_tokens=14 + 3 * number,
        temperature=(0.0, 1.0, 0.5, 1.5)[number % 4],
        top_p=(1.0, 0.9, 1.0)[number % 3],
        top_k=(0, 0, 7, 0, 3)[number % 5],
        presence_penalty=(0.0, 0.0, 1.0)[number % 3],
        frequency_penalty=(0.0, 0.3)[number % 2],
        logit_bias=({}, {}, {7: 2.0})[number % 3],
        stop_token_ids=((), (), (11, 13))[number % 3],
        seed=100 + number,
        logprobs=(None, 4)[number % 2],
        prompt_logprobs=(None, None, 2)[number % 3],
    )
    for number in range(len(PROMPTS))
]


@pytest.fixture(scope="module")
def plain(models):
    """Every request by itself, without speculation."""
    return {
        name: [
            Engine(model, max_batch=1, prefix_cache=False).generate([prompt], one)[0]
            for prompt, one in zip(PROMPTS, PARAMS, strict=True)
        ]
        for name, model in models.items()
    }


@pytest.mark.parametrize(("shape", "mode"), MODES)
@pytest.mark.parametrize("options", [{}, {"max_batch": 1}, {"max_batch": 5, "prefill_tokens": 32}])
def test_every_output_is_the_one_without_speculation(models, plain, shape, mode, options):
    engine = engine_of(models[shape], mode, **options)
    assert engine.generate(PROMPTS, PARAMS) == plain[shape]
    assert engine.stats.drafted > 0
    assert mode == "auto" or 0 < engine.stats.accepted < engine.stats.drafted, "right and wrong guesses, or no proof"


@pytest.mark.parametrize("mode", ["ngram", "mtp"])
def test_in_fast_mode_too(mode):
    config = replace(V3, latent_dim=32, rope_dim=32, nope_dim=32)
    fast = Model(made_fast(peaked(config).network), config, None)
    plain = Engine(fast, max_batch=1, prefix_cache=False).generate(PROMPTS, PARAMS)
    engine = Engine(fast, speculation=mode)
    assert engine.generate(PROMPTS, PARAMS) == plain
    assert 0 < engine.stats.accepted < engine.stats.drafted


LONG = [SamplingParams(max_tokens=90, seed=seed, temperature=(0.0, 0.8)[seed % 2], logprobs=2) for seed in range(5)]


@pytest.fixture(scope="module")
def long_replies(models):
    return Engine(models["v3"], prefix_cache=False).generate(PROMPTS[:5], LONG)


@pytest.mark.parametrize("mode", ["ngram", "mtp", "auto"])
@pytest.mark.parametrize(("cache_tokens", "prefix_cache"), [(192, False), (224, True)])
def test_under_preemption_too(models, long_replies, mode, cache_tokens, prefix_cache):
    engine = engine_of(models["v3"], mode, cache_tokens=cache_tokens, prefix_cache=prefix_cache)
    assert engine.generate(PROMPTS[:5], LONG) == long_replies
    assert engine.stats.preemptions > 0
    assert engine.stats.accepted > 0


@pytest.mark.parametrize("mode", ["ngram", "mtp"])
def test_speculation_preempts_nobody(models, mode):
    """Three rows of 96 tokens fill the cache to the last one: what guesses take has to come out of that."""
    params = [SamplingParams(max_tokens=65, seed=seed, temperature=0.5) for seed in range(3)]
    engine = Engine(models["v3"], cache_tokens=288, speculation=mode)
    engine.generate([PROMPTS[2]] * 3, params)
    assert engine.stats.accepted > 10
    assert engine.stats.preemptions == 0


@pytest.mark.parametrize("mode", ["ngram", "mtp", "auto"])
def test_greedy_repetition_takes_few_passes_and_each_computed_token_is_billed(models, mode):
    counted, config = [], models["v3"].config
    engine = engine_of(models["v3"], mode, count=lambda *, flops, tokens: counted.append((flops, tokens)))
    output = engine.generate([PROMPTS[2]], SamplingParams(max_tokens=120, temperature=0.0))[0]
    passes = [tokens for _, tokens in counted if tokens]
    assert len(output.token_ids) == 120
    assert sum(passes) == len(PROMPTS[2]) + len(passes) - 1 + engine.stats.drafted
    assert len(passes) + engine.stats.accepted == 120
    assert engine.stats.accepted > 60
    assert counted[0] == (forward_flops(config, 31, context=15.5), 31)
    assert (mode == "ngram") == all(tokens for _, tokens in counted), "the module's passes have FLOPs and no tokens"


@pytest.mark.parametrize("pays", [True, False])
def test_auto_goes_on_where_guesses_pay_and_stops_where_they_do_not(models, pays):
    """By a clock on which a pass takes either the same time however many tokens it has, or as long as its tokens."""
    now = 0

    def tick(*, flops, tokens):
        nonlocal now
        now += bool(tokens) if pays else tokens

    engine = Engine(models["v3"], speculation="auto", count=tick)
    engine.speculation.clock = lambda: now
    params = SamplingParams(max_tokens=150, temperature=0.0)
    engine.generate(PROMPTS[:1], params)
    if pays:
        assert engine.stats.accepted > 90
    else:
        assert engine.stats.drafted < 60, "every number of guesses is measured once, and hardly any again"


def test_the_events_of_one_step_are_the_requests_tokens_in_order(models):
    engine = Engine(models["v3"], speculation="ngram")
    params = SamplingParams(max_tokens=50, temperature=0.0, logprobs=2)
    ids = [engine.add(prompt, params) for prompt in PROMPTS[:3]]
    tokens, most = defaultdict(list), 0
    while engine.has_work:
        events = engine.step()
        for event in events:
            tokens[event.request_id].append((event.token_id, event.logprob, event.top_logprobs, event.finish_reason))
        most = max(most, len(events))
    assert most > 3
    for request_id, output in zip(ids, Engine(models["v3"]).generate(PROMPTS[:3], params), strict=True):
        ends = [None] * 49 + ["length"]
        said = list(zip(output.token_ids, output.logprobs, output.top_logprobs, ends, strict=True))
        assert tokens[request_id] == said


def test_a_guess_beyond_the_end_of_a_request_is_never_tried(models):
    for max_tokens in range(1, 6):
        engine = Engine(models["v3"], speculation="ngram")
        output = engine.generate([[5, 6, 7] * 5], SamplingParams(max_tokens=max_tokens, temperature=0.0))[0]
        assert len(output.token_ids) == max_tokens
        assert engine.stats.drafted <= (max_tokens - 1) * (max_tokens - 2) // 2, "one less is left with every token"


@pytest.mark.parametrize("mode", ["ngram", "mtp", "auto"])
@pytest.mark.parametrize("seed", range(2))
def test_random_operations_leave_nothing_behind_and_every_reply_is_the_one_without(models, mode, seed):
    random, model = Random(seed), models["v3"]
    stems = texts(seed, [random.randrange(1, 150) for _ in range(6)])
    room = {"cache_tokens": random.choice([224, 480, 1500]), "prefill_tokens": random.choice([32, 64])}
    engine = engine_of(model, mode, max_batch=7, **room)
    asked, tokens, finished = {}, {}, []
    for _ in range(150):
        deed = random.random()
        if deed < 0.3 and len(asked) - len(finished) < 30:
            stem = random.choice(stems)
            prompt = stem[: random.randrange(1, len(stem) + 1)]
            params = SamplingParams(
                max_tokens=random.randrange(1, 60),
                seed=random.randrange(100),
                temperature=random.choice([0.0, 0.6]),
                routings=random.random() < 0.3,
            )
            request_id = engine.add(prompt, params)
            asked[request_id], tokens[request_id] = (prompt, params), []
        elif deed < 0.38 and asked:
            request_id = random.choice(list(asked))
            engine.cancel(request_id)
            if request_id not in finished:
                del asked[request_id]
        elif deed < 0.382:
            engine.clear()
            asked = {request_id: asked[request_id] for request_id in finished}
        elif deed < 0.39:
            engine.weights_changed()
        else:
            for event in engine.step():
                tokens[event.request_id].append(event.token_id)
                finished += [event.request_id] if event.finish_reason else []
        held = engine.runner.cache.lengths_B.tolist()
        assert held[: engine.runner.num_running] == [request.num_tokens - 1 for request in engine.running]
        assert engine.runner.cache.book.num_used <= engine.runner.num_pages
    assert engine.stats.accepted > 10
    for request_id in random.sample(finished, 5):
        prompt, params = asked[request_id]
        assert Engine(model).generate([prompt], params)[0].token_ids == tokens[request_id]
    while engine.has_work:
        engine.step()
    assert engine.runner.num_rows == engine.runner.cache.num_rows == 0
    assert engine.runner.cache.book.num_used == engine.runner.prefixes.num_pages
    for drafter in engine.speculation.drafters:
        assert not any(vars(drafter).get(name) for name in ("texts", "requests", "unread"))
    module = engine.speculation.module
    assert module is None or module.cache.num_rows == module.cache.book.num_used == 0


@pytest.mark.parametrize("mode", ["ngram", "mtp"])
@pytest.mark.parametrize("num_steps", [1, 2, 4, 7])
def test_a_cancel_while_guesses_are_tried_or_a_neighbour_is_read_changes_nothing_else(models, mode, num_steps):
    params = SamplingParams(max_tokens=40, temperature=0.0)
    prompts = [PROMPTS[0], PROMPTS[7] * 2, PROMPTS[3]]
    expected = Engine(models["v3"]).generate(prompts, params)
    engine = Engine(models["v3"], speculation=mode, prefill_tokens=32)
    ids, tokens = [engine.add(prompt, params) for prompt in prompts], defaultdict(list)
    for step in range(100):
        if step == num_steps:
            engine.cancel(ids[0])
        for event in engine.step():
            assert step < num_steps or event.request_id != ids[0]
            tokens[event.request_id].append(event.token_id)
    assert [tokens[ids[1]], tokens[ids[2]]] == [output.token_ids for output in expected[1:]]
    assert engine.runner.cache.num_rows == 0


@torch.no_grad()
def test_routings_with_speculation_are_the_trainers(models):
    params = SamplingParams(max_tokens=40, seed=1, routings=True)
    engine = Engine(models["v3"], speculation="ngram")
    for output in engine.generate(PROMPTS, params):
        trained = models["v3"].network(torch.tensor([(output.prompt_token_ids + output.token_ids)[:-1]])).routings
        assert output.routings.experts_LTA.tolist() == [routing.experts_NA.tolist() for routing in trained]
        assert torch.equal(output.routings.weights_LTA, torch.stack([routing.weights_NA for routing in trained]))
    assert 0 < engine.stats.accepted < engine.stats.drafted


def test_the_modules_memory_is_allowed_for(models, monkeypatch):
    monkeypatch.setattr("gorae.engine.shortage.memory_bytes", lambda: (3 * 2**20, 1))
    tokens = {mode: Engine(models["v3"], speculation=mode).cache_tokens for mode in (None, "ngram", "mtp")}
    assert tokens[None] == tokens["ngram"]
    assert tokens["mtp"] == pytest.approx(tokens[None] * 2 / 3, abs=32), "three layers in place of two"


def test_modes_that_do_not_exist_or_have_no_module_are_refused(models):
    with pytest.raises(ValueError, match="speculation='eagle' is not known; use one of auto, ngram, mtp, or None"):
        Engine(models["v3"], speculation="eagle")
    with pytest.raises(ValueError, match='speculation="mtp" needs a next-token module and this model has none; use'):
        Engine(models["v2"], speculation="mtp")

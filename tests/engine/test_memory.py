"""What an engine holds is bounded, however much is asked of it; who has to wait gets the same bits later."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
import torch

from gorae import Engine, SamplingParams
from gorae.checkpoint import Model
from gorae.config import ModelConfig, cache_bytes_per_token
from gorae.model import Network

TINY = ModelConfig(
    vocab_size=50,
    model_dim=8,
    num_layers=1,
    num_heads=1,
    query_rank=None,
    latent_dim=4,
    nope_dim=4,
    rope_dim=2,
    value_dim=4,
    dense_dim=8,
    expert_dim=4,
    num_experts=2,
    num_active_experts=1,
    max_positions=200,
    eos_id=None,
    init_std=0.5,
)


@pytest.fixture(scope="module")
def tiny() -> Model:
    return Model(Network(TINY, seed=1).eval(), TINY, None)


def texts(seed: int, lengths: list[int], vocab_size: int) -> list[list[int]]:
    random = Random(seed)
    return [[random.randrange(3, vocab_size) for _ in range(length)] for length in lengths]


def check_bounds(engine: Engine) -> None:
    """What must hold between any two operations."""
    runner, reading = engine.runner, engine.reading
    check_pages(engine)
    assert len(engine.running) + len(reading.requests) <= engine.max_batch
    assert runner.num_running == len(engine.running)
    assert bool(runner.reading) == bool(reading.requests)
    held = runner.cache.lengths_B.tolist()
    assert held[: runner.num_running] == [request.num_tokens - 1 for request in engine.running]
    assert len(held) == runner.cache.num_rows == runner.num_rows
    ids = [request.request_id for request in engine.waiting]
    assert ids == sorted(ids)


def check_pages(engine: Engine) -> None:
    """Every page is free or accounted for, and who writes to a page holds it alone."""
    cache, prefixes = engine.runner.cache, engine.runner.prefixes
    book, kept = cache.book, [node.page for node in prefixes.by_use]
    holders = Counter(page for pages in cache.held for page in pages)
    assert 32 * book.num_pages == engine.cache_tokens
    assert len(set(kept)) == len(kept)
    assert book.num_used == len(set(kept) | set(holders)) <= book.num_pages
    assert book.num_idle == len(set(kept) - set(holders))
    assert not {0} & (set(kept) | set(holders))
    for page, num_holders in holders.items():
        assert book.holders[page] == num_holders
    for row, (pages, length) in enumerate(zip(cache.held, cache.lengths_B.tolist(), strict=True)):
        assert cache.table_BM[row].tolist() == pages + [0] * (cache.table_BM.shape[1] - len(pages))
        assert all(holders[page] == 1 and page not in kept for page in pages[length // 32 :])


def drain(engine: Engine) -> None:
    while engine.has_work:
        engine.step()
        check_bounds(engine)


def test_a_request_goes_on_talking_while_a_long_prompt_is_read_in_chunks(model):
    engine = Engine(model, prefill_tokens=32)
    short, long = texts(1, [5, 150], model.config.vocab_size)
    params = SamplingParams(max_tokens=9, seed=1, ignore_eos=True)
    talking = engine.add(short, params)
    engine.step()
    reading = engine.add(long, params)
    named = [[event.request_id for event in engine.step()] for _ in range(6)]
    assert named == [[talking]] * 4 + [[talking, reading]] * 2


EVERY_TOKEN = SamplingParams(max_tokens=6, seed=1, ignore_eos=True, logprobs=300)


def whole_distributions(model, prompt, others=(), **options):
    """The log-probabilities of all tokens at every place of a reply, and the engine that wrote it after others."""
    engine = Engine(model, **options)
    rest = [replace(EVERY_TOKEN, seed=seed, max_tokens=3 + seed, logprobs=None) for seed in range(len(others))]
    return engine.generate([*others, prompt], [*rest, EVERY_TOKEN])[-1].top_logprobs, engine


@pytest.mark.parametrize("prefill_tokens", [32, 96, 2048])
def test_alone_or_among_17_strangers_and_in_chunks_every_probability_has_the_same_bits(model, prefill_tokens):
    prompt, *strangers = texts(2, [130, 140, *range(1, 65, 4)], model.config.vocab_size)
    alone, _ = whole_distributions(model, prompt, prefix_cache=False)
    among, engine = whole_distributions(model, prompt, strangers, prefill_tokens=prefill_tokens)
    assert len(strangers) == 17
    assert among == alone
    again = engine.generate([prompt], EVERY_TOKEN)[0]
    assert again.top_logprobs == alone
    assert again.num_cached == 128


@pytest.mark.parametrize("prefix_cache", [False, True])
def test_however_often_a_request_is_preempted_every_probability_has_the_same_bits(model, prefix_cache):
    prompt, *strangers = texts(2, [130, 70, 31, 5], model.config.vocab_size)
    alone, _ = whole_distributions(model, prompt, prefix_cache=False)
    engine = Engine(model, prefill_tokens=64, prefix_cache=prefix_cache)
    for stranger in strangers:
        engine.add(stranger, SamplingParams(max_tokens=30, ignore_eos=True))
    engine.add(prompt, EVERY_TOKEN)
    request = engine.waiting[-1]
    while request not in engine.running:
        engine.step()
    for _ in range(4):
        engine.preempt()
        assert engine.waiting[0] is request
        for _ in range(4):  # three to read it again where nothing is kept
            engine.step()
            check_bounds(engine)
        if request.finish_reason:
            break
    assert request.output(model.tokenizer).top_logprobs == alone
    assert engine.stats.preemptions >= 2


def test_one_and_two_threads_agree_in_chunks_and_behind_a_prefix(model):
    prompt = texts(3, [130], model.config.vocab_size)[0]
    before, found = torch.get_num_threads(), []
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        found.append(whole_distributions(model, prompt, [prompt[:70]], prefill_tokens=32)[0])
    torch.set_num_threads(before)
    assert found[0] == found[1]


@pytest.mark.parametrize(("cache_tokens", "prefix_cache"), [(192, False), (320, True)])
def test_a_small_cache_makes_requests_wait_and_changes_no_bit(model, prompts, cache_tokens, prefix_cache):
    params = [SamplingParams(max_tokens=50 + number, seed=number, ignore_eos=True) for number in range(12)]
    expected = Engine(model, prefix_cache=False).generate(prompts[:12], params)
    engine = Engine(model, cache_tokens=cache_tokens, prefix_cache=prefix_cache)
    assert engine.generate(prompts[:12], params) == expected
    assert engine.stats.preemptions > 0
    check_bounds(engine)


def test_the_youngest_gives_way_and_the_oldest_is_never_interrupted(tiny):
    engine = Engine(tiny, cache_tokens=256, prefix_cache=False)
    ids = [engine.add(prompt, SamplingParams(max_tokens=100)) for prompt in texts(4, [20] * 4, 50)]
    ends = []
    while engine.has_work:
        before = engine.stats.preemptions
        running = [request.request_id for request in engine.running]
        events = engine.step()
        gone = set(running) - {event.request_id for event in events}
        assert len(gone) <= engine.stats.preemptions - before
        assert not gone or min(gone) > max(set(running) - gone)
        ends += [event.request_id for event in events if event.finish_reason]
        check_bounds(engine)
    assert ends == ids
    assert engine.stats.preemptions >= 2


def test_a_prompt_that_can_never_fit_is_refused_and_a_reply_ends_where_the_cache_does(tiny):
    engine = Engine(tiny, cache_tokens=70)
    with pytest.raises(
        ValueError,
        match="the prompt has 64 tokens and the cache holds at most 64, one of them to be written; shorten the prompt "
        "or give the engine more cache_tokens",
    ):
        engine.add([5] * 64, SamplingParams())
    assert not engine.has_work
    output = engine.generate([[5] * 60], SamplingParams(max_tokens=100))[0]
    assert (len(output.token_ids), output.finish_reason) == (4, "length")
    assert engine.max_positions == 64
    assert Engine(tiny, cache_tokens=1000).max_positions == 200


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"cache_tokens": 31}, "cache_tokens=31 must be at least 32, one page of keys"),
        ({"prefill_tokens": 0}, "prefill_tokens=0 must be 32 or a multiple of it"),
        ({"prefill_tokens": 48}, "prefill_tokens=48 must be 32 or a multiple of it"),
    ],
)
def test_an_engine_without_room_for_a_page_is_refused(tiny, wanted, sentence):
    with pytest.raises(ValueError) as error:
        Engine(tiny, **wanted)
    assert sentence in str(error.value)


def test_by_default_the_cache_may_take_half_of_the_memory_available(tiny, monkeypatch):
    page_bytes = 32 * cache_bytes_per_token(TINY)
    monkeypatch.setattr("gorae.engine.shortage.memory_bytes", lambda: (2 * 10 * page_bytes + 100, 1))
    assert Engine(tiny).cache_tokens == 10 * 32
    layers = Engine(tiny).runner.cache.layers
    assert sum(held.nbytes for kinds in layers for held in kinds) == (1 + 10) * page_bytes  # page 0 is nobody's


def test_a_thousand_requests_wait_their_turn(tiny):
    prompts = texts(5, [1 + n % 60 for n in range(1000)], 50)
    params = [SamplingParams(max_tokens=1 + n % 5, seed=n) for n in range(1000)]
    engine = Engine(tiny, max_batch=64, cache_tokens=2048)
    number_of = {engine.add(p, one): n for n, (p, one) in enumerate(zip(prompts, params, strict=True))}
    tokens = [[] for _ in prompts]
    while engine.has_work:
        for event in engine.step():
            tokens[number_of[event.request_id]].append(event.token_id)
        check_bounds(engine)
    assert [len(one) for one in tokens] == [one.max_tokens for one in params]
    for n in range(0, 1000, 97):
        assert Engine(tiny).generate([prompts[n]], params[n])[0].token_ids == tokens[n]


@pytest.mark.parametrize("num_steps", range(7))
@pytest.mark.parametrize("cancelled", [[0], [1], [2], [1, 2], [0, 1, 2]])
def test_a_cancel_in_any_phase_frees_what_the_request_held_and_changes_nothing_else(tiny, num_steps, cancelled):
    """Waiting, in the middle of a long prompt that two share, running, ended."""
    short, long = texts(6, [10, 100], 50)
    prompts, params = [short, long, long], [SamplingParams(max_tokens=5, seed=seed) for seed in range(3)]
    expected = [output.token_ids for output in Engine(tiny).generate(prompts, params)]
    engine = Engine(tiny, prefill_tokens=32)
    ids = [engine.add(prompt, one) for prompt, one in zip(prompts, params, strict=True)]
    tokens = {request_id: [] for request_id in ids}
    for _ in range(num_steps):
        for event in engine.step():
            tokens[event.request_id].append(event.token_id)
    for number in cancelled:
        engine.cancel(ids[number])
        check_bounds(engine)
    while engine.has_work:
        for event in engine.step():
            assert event.request_id not in [ids[number] for number in cancelled]
            tokens[event.request_id].append(event.token_id)
        check_bounds(engine)
    assert [tokens[ids[n]] for n in range(3) if n not in cancelled] == [
        expected[n] for n in range(3) if n not in cancelled
    ]
    assert engine.runner.cache.book.num_idle == engine.runner.cache.book.num_used


@pytest.mark.parametrize("seed", range(3))
def test_thousands_of_random_operations_leave_nothing_behind_and_every_reply_is_the_right_one(tiny, seed):
    random = Random(seed)
    stems = texts(seed, [random.randrange(1, 150) for _ in range(6)], 50)
    engine = Engine(
        tiny, max_batch=9, cache_tokens=random.choice([224, 480, 1500]), prefill_tokens=random.choice([32, 64])
    )
    asked, tokens, finished = {}, {}, []
    for _ in range(1000):
        deed = random.random()
        if deed < 0.25 and len(asked) - len(finished) < 40:
            stem = random.choice(stems)
            prompt = stem[: random.randrange(1, len(stem) + 1)] + texts(len(asked), [random.randrange(0, 30)], 50)[0]
            params = SamplingParams(max_tokens=random.randrange(1, 40), seed=random.randrange(100))
            request_id = engine.add(prompt, params)
            asked[request_id], tokens[request_id] = (prompt, params), []
        elif deed < 0.35 and asked:
            request_id = random.choice(list(asked))
            engine.cancel(request_id)
            if request_id not in finished:
                del asked[request_id]
        elif deed < 0.352:
            engine.clear()
            asked = {request_id: asked[request_id] for request_id in finished}
        elif deed < 0.36:
            engine.weights_changed()
        else:
            for event in engine.step():
                tokens[event.request_id].append(event.token_id)
                finished += [event.request_id] if event.finish_reason else []
        check_bounds(engine)
    assert len(finished) > 50
    for request_id in random.sample(finished, 25):
        prompt, params = asked[request_id]
        assert Engine(tiny).generate([prompt], params)[0].token_ids == tokens[request_id]
    drain(engine)
    book = engine.runner.cache.book
    assert engine.runner.num_rows == 0
    assert book.num_used == book.num_idle == engine.runner.prefixes.num_pages > 0
    engine.runner.prefixes.make_room(book.num_pages)
    assert book.num_used == 0
    engine.clear()
    assert engine.runner.prefixes.num_pages == 0


def test_a_long_neighbour_that_has_left_leaves_no_long_rows(tiny):
    engine = Engine(tiny, prefix_cache=False)
    long, *short = texts(7, [180, 3, 4, 5], 50)
    engine.add(long, SamplingParams(max_tokens=1))
    for prompt in short:
        engine.add(prompt, SamplingParams(max_tokens=9))
    engine.step()
    engine.step()
    assert engine.runner.cache.book.num_used == 3


def test_equal_prompts_share_their_whole_pages(tiny):
    engine = Engine(tiny, prefix_cache=False)
    for seed in range(5):
        engine.add(texts(8, [100], 50)[0], SamplingParams(max_tokens=9, seed=seed))
    engine.step()
    assert len(engine.running) == 5
    assert engine.runner.cache.book.num_used == 3 + 5
    check_bounds(engine)

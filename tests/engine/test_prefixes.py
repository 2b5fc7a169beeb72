"""What has been read is read once, as long as there is room and the weights are those that read it."""

from copy import deepcopy

import pytest
import torch

from gorae import Engine, SamplingParams
from gorae.checkpoint import Model
from gorae.config import forward_flops
from gorae.engine.prefixes import PrefixCache
from gorae.model import PageBook
from gorae.train import HybridOptimizer, OptimizerSettings

PARAMS = SamplingParams(max_tokens=3, seed=1, ignore_eos=True, logprobs=300)
LONG = [3 + n * n % 290 for n in range(100)]


@pytest.fixture
def num_read(model):
    """Tokens the network has been given, padding included, while the test runs."""
    counted: list[int] = []
    hook = model.network.register_forward_pre_hook(lambda _, inputs: counted.append(inputs[0].numel()))
    yield counted
    hook.remove()


@pytest.fixture
def own(model) -> Model:
    """A model whose weights a test may change."""
    return Model(deepcopy(model.network), model.config, model.tokenizer)


def generate(engine, *prompts, params=PARAMS):
    return engine.generate(list(prompts), params)


def test_behind_a_cached_prefix_every_probability_has_the_bits_it_has_cold(model):
    engine = Engine(model)
    generate(engine, LONG)
    for place, length in enumerate((33, 64, 65, 100)):
        for shared in (0, 31, 40, 64, 99):
            prompt = LONG[: min(shared, length)] + [70 * place + shared // 2 + 11] * (length - shared)
            warm, cold = generate(engine, prompt)[0], generate(Engine(model, prefix_cache=False), prompt)[0]
            assert warm == cold
            assert warm.num_cached == 32 * (min(shared, length - 1) // 32)
            assert cold.num_cached == 0


def test_only_what_is_not_known_is_read_and_billed(model, num_read):
    counted = []
    engine = Engine(model, count=lambda *, flops, tokens: counted.append((flops, tokens)))
    once = SamplingParams(max_tokens=1)
    generate(engine, LONG, params=once)
    generate(engine, LONG[:64] + [5] * 10, params=once)
    generate(engine, LONG[:64], params=once)  # the last token is always read, and so its page
    assert num_read == [100, 10, 32]
    assert counted == [
        (forward_flops(model.config, 100, context=50), 100),
        (forward_flops(model.config, 10, context=64 + 5), 10),
        (forward_flops(model.config, 32, context=32 + 16), 32),
    ]
    assert (engine.stats.prompt_tokens, engine.stats.cached_tokens) == (100 + 74 + 64, 64 + 32)


def test_without_a_prefix_cache_all_is_read_and_nothing_stays(model, num_read):
    engine = Engine(model, prefix_cache=False)
    for _ in range(2):
        generate(engine, LONG, params=SamplingParams(max_tokens=1))
    assert num_read == [100, 100]
    assert engine.stats.cached_tokens == 0
    assert engine.runner.prefixes.num_pages == engine.runner.cache.book.num_used == 0


def test_a_request_still_running_shares_what_it_has_read(model):
    engine = Engine(model)
    engine.add(LONG, SamplingParams(max_tokens=50, ignore_eos=True))
    engine.step()
    engine.add(LONG[:70], SamplingParams(max_tokens=50, ignore_eos=True))
    assert [event.num_cached for event in engine.step()] == [0, 64]


def test_a_conversation_goes_on_behind_its_own_replies(model):
    """The tokens that decoding wrote serve the next turn as those that were read do."""
    engine = Engine(model)
    first = generate(engine, LONG[:50], params=SamplingParams(max_tokens=60, seed=1, ignore_eos=True))[0]
    turn = LONG[:50] + first.token_ids + [9, 8, 7]
    second = generate(engine, turn)[0]
    assert second.num_cached == 96
    assert second == generate(Engine(model), turn)[0]


def test_a_cancelled_request_leaves_what_it_has_read(model):
    engine = Engine(model, prefill_tokens=32)
    request = engine.add(LONG, PARAMS)
    engine.step()
    engine.step()
    engine.cancel(request)
    assert generate(engine, LONG)[0].num_cached == 64


def test_prefixes_fill_the_cache_and_make_way_for_whoever_runs(model):
    engine = Engine(model, cache_tokens=160, prefill_tokens=64)
    for start in range(5, 12):
        generate(engine, [start] * 100, params=SamplingParams(max_tokens=1))
    assert engine.runner.prefixes.num_pages == 4  # the fifth was the last prompt's last
    engine.add([50] * 100, SamplingParams(max_tokens=2, ignore_eos=True))
    while engine.has_work:
        engine.step()
        assert engine.runner.cache.book.num_used <= 5
    engine.add([60] * 150, SamplingParams(max_tokens=5, ignore_eos=True))
    engine.step()
    assert engine.runner.cache.book.num_used == len(engine.runner.cache.held[0]) == 5
    assert engine.runner.prefixes.num_pages == 0


def kept(prefixes, sequence):
    """Let a row read a sequence and leave; returns its pages."""
    book = prefixes.book
    known = prefixes.find(sequence)
    book.hold(known)
    prefixes.make_room(len(sequence) // 32 - len(known))
    pages = known + [book.take() for _ in range(len(known), len(sequence) // 32)]
    prefixes.keep(sequence, pages)
    book.let_go(pages)
    return pages


def test_the_least_recently_used_page_goes_first_and_never_one_that_others_follow():
    prefixes = PrefixCache(PageBook(8))
    a, b, c = ([number] * 96 for number in (1, 2, 3))
    fork = a[:64] + b[:32]
    pages = {name: kept(prefixes, sequence) for name, sequence in (("a", a), ("b", b), ("fork", fork))}
    assert pages["fork"][:2] == pages["a"][:2]
    assert prefixes.num_pages == prefixes.book.num_used == 7
    assert prefixes.find(a) == pages["a"]
    prefixes.make_room(4)  # takes b's pages: used before fork and a were
    assert prefixes.find(b) == []
    assert prefixes.find(fork) == pages["fork"]
    assert prefixes.find(a) == pages["a"]
    pages["c"] = kept(prefixes, c)
    prefixes.make_room(2)  # takes fork's own page: used before a and c were
    assert prefixes.find(fork) == pages["a"][:2]
    assert prefixes.find(a) == pages["a"]
    assert prefixes.find(c) == pages["c"]
    prefixes.make_room(8)
    assert prefixes.num_pages == prefixes.book.num_used == 0
    assert not prefixes.root.children


def test_a_page_that_a_row_holds_outlives_its_place_among_the_prefixes():
    prefixes = PrefixCache(PageBook(4))
    sequence = [5] * 64
    pages = kept(prefixes, sequence)
    prefixes.book.hold(pages)
    prefixes.make_room(4)
    assert (prefixes.num_pages, prefixes.book.num_used) == (0, 2)
    prefixes.keep(sequence, pages)
    prefixes.book.let_go(pages)
    assert prefixes.find(sequence) == pages


def test_equal_prompts_keep_one_copy(model):
    engine = Engine(model)
    generate(engine, LONG, LONG, LONG[:64], params=SamplingParams(max_tokens=1))
    assert engine.runner.prefixes.num_pages == engine.runner.cache.book.num_used == 3


def by_an_optimizer(own, _):
    optimizer = HybridOptimizer(own.network.named_parameters(), OptimizerSettings(lr=0.01, matrix_lr=0.01))
    own.network.logits(own.network(torch.tensor([LONG])).hidden_BTD).square().mean().backward()
    optimizer.step(1.0)


@torch.no_grad()
def by_balancing_the_router(own, _):
    own.network.blocks[1].feed_forward.bias_E.add_(torch.arange(8) * 0.1)


def by_loading(own, _):
    weights = {name: tensor * 1.02 for name, tensor in own.network.state_dict().items()}
    own.network.load_state_dict(weights)


def by_new_tensors(own, _):
    weights = {name: tensor * 1.02 for name, tensor in own.network.state_dict().items()}
    own.network.load_state_dict(weights, assign=True)


def by_the_engine(own, engine):
    name = "blocks.1.attention.latent_down_CRD"
    engine.update_weights({name: own.network.state_dict()[name] * 1.02})


def by_a_way_around_and_a_word(own, engine):
    own.network.blocks[0].attention.latent_down_CRD.data.add_(0.05)
    engine.weights_changed()


CHANGES = [
    by_an_optimizer,
    by_balancing_the_router,
    by_loading,
    by_new_tensors,
    by_the_engine,
    by_a_way_around_and_a_word,
]


@pytest.mark.parametrize("change", CHANGES)
def test_no_prefix_outlives_the_weights_that_read_it(own, change):
    engine = Engine(own)
    old = generate(engine, LONG)[0]
    change(own, engine)
    new = generate(engine, LONG)[0]
    expected = generate(Engine(own), LONG)[0]
    assert new.top_logprobs == expected.top_logprobs != old.top_logprobs
    assert (old.weights_version, new.weights_version, new.num_cached) == (0, 1, 0)


@pytest.mark.parametrize("change", CHANGES)
def test_a_request_under_way_goes_on_with_the_new_weights_alone(own, change):
    """Its next token is what the new weights say of its prompt and of what it has written, nothing remembered."""
    engine = Engine(own, prefill_tokens=32)
    params = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
    running, reading = engine.add(LONG[:40], params), engine.add(LONG, params)
    requests, tokens = list(engine.waiting), {running: [], reading: []}
    while len(tokens[running]) < 3:
        for event in engine.step():
            tokens[event.request_id].append(event.token_id)
    assert engine.reading.requests
    change(own, engine)
    written = list(tokens[running])
    while engine.has_work:
        for event in engine.step():
            tokens[event.request_id].append(event.token_id)
    assert tokens[running][3:] == generate(Engine(own), LONG[:40] + written, params=params)[0].token_ids[:5]
    assert tokens[reading] == generate(Engine(own), LONG, params=params)[0].token_ids
    assert [request.output(None).weights_version for request in requests] == [0, 1]  # of the first token


def test_weights_that_do_not_fit_are_refused_before_any_is_copied(own):
    engine, before = Engine(own), deepcopy(own.network.state_dict())
    fine = {"norm_D": torch.zeros_like(own.network.norm_D)}
    with pytest.raises(ValueError, match="the network has no weight 'nrom_D'; give names of its named_parameters"):
        engine.update_weights(fine | {"nrom_D": torch.ones(20)})
    with pytest.raises(ValueError, match=r"head_WD of shape \[3, 4\] does not fit into \[300, 20\]"):
        engine.update_weights(fine | {"head_WD": torch.ones(3, 4)})
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.network.state_dict().items())
    assert engine.weights_version == 0

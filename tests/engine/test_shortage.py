"""Memory that is not there: fewer requests run at once and get the same bits; one that never fits is told so."""

import pytest
import torch

from gorae import Engine, SamplingParams
from gorae.engine import ShortageError
from gorae.engine.shortage import is_shortage, memory_of

SAID = "[enforce fail at alloc_cpu.cpp:129] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"


@pytest.fixture
def short_of(model):
    """Let the network find no memory for more than so many tokens at once, as PyTorch's allocator tells it."""
    hooks = []

    def short_of(num_tokens: int, error: type[Exception] = RuntimeError) -> None:
        def refuse(_, inputs):
            if inputs[0].numel() > num_tokens:
                raise error(SAID)

        hooks.append(model.network.register_forward_pre_hook(refuse))

    yield short_of
    for hook in hooks:
        hook.remove()


def test_a_gpu_says_that_it_is_short_in_words_of_its_own():
    assert is_shortage(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert not is_shortage(RuntimeError("CUDA error: device-side assert triggered"))


def test_memory_is_that_of_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3, 4))
    assert memory_of(torch.device("cuda", 0)) == (3, 4)
    assert memory_of(torch.device("cpu"))[1] > 2**20


@pytest.mark.parametrize("speculation", [None, "ngram"])
@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_where_memory_is_short_fewer_run_at_once_and_get_the_same_bits(
    model, prompts, short_of, error, speculation, capfd
):
    params = [SamplingParams(max_tokens=5 + n, seed=n, ignore_eos=True, prompt_logprobs=1) for n in range(12)]
    prompts = [prompt[:20] for prompt in prompts[:12]]
    expected = Engine(model).generate(prompts, params)
    engine = Engine(model, speculation=speculation)
    short_of(40, error)
    assert engine.generate(prompts, params) == expected
    assert engine.max_batch < 12
    assert engine.stats.preemptions > 0
    assert engine.runner.num_rows == 0
    assert "memory is short: the engine runs 6 requests at once from now on" in capfd.readouterr().err


def test_a_request_that_finds_no_memory_alone_is_dropped_by_name_and_the_others_go_on(model, prompts, short_of, capfd):
    params = SamplingParams(max_tokens=5, seed=1, ignore_eos=True)
    expected = Engine(model).generate([prompts[2]], params)[0]
    engine = Engine(model)
    short_of(30)
    long, short = engine.add(prompts[10], params), engine.add(prompts[2], params)
    assert engine.step() == [], "both at once"
    with pytest.raises(ShortageError, match=f"request {long} was dropped, as there is no memory for it even") as told:
        engine.step()
    assert told.value.request_id == long
    tokens = []
    while engine.has_work:
        tokens += engine.step()
    assert {event.request_id for event in tokens} == {short}
    assert [event.token_id for event in tokens] == expected.token_ids


def test_where_there_is_no_memory_for_a_long_pass_a_prompt_is_read_in_shorter_ones(model, prompts, short_of, capfd):
    params, prompt = SamplingParams(max_tokens=5, seed=1, ignore_eos=True, prompt_logprobs=1), prompts[11] * 2
    expected = Engine(model).generate([prompt], params)
    engine = Engine(model, prefill_tokens=96, prefill_tokens_while_running=32)
    short_of(40)
    assert engine.generate([prompt], params) == expected
    assert (engine.prefill_tokens, engine.max_batch) == (32, 256)
    assert "memory is short: the engine reads 32 tokens at once from now on" in capfd.readouterr().err


def test_another_error_is_not_taken_for_a_shortage(model):
    engine = Engine(model)

    def break_down(_, inputs):
        raise RuntimeError("the weights caught fire")

    hook = model.network.register_forward_pre_hook(break_down)
    with pytest.raises(RuntimeError, match="the weights caught fire"):
        engine.generate([[5]])
    hook.remove()
    assert len(engine.generate([[5]], SamplingParams(max_tokens=2, ignore_eos=True))[0].token_ids) == 2


def test_a_cache_that_no_memory_holds_is_refused_with_its_size(model):
    with pytest.raises(MemoryError, match=r"there is no memory for a cache of 1099511627776000 tokens .*; give fewer"):
        Engine(model, cache_tokens=2**40 * 1000)

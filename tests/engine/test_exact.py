"""What a request gets depends on the weights, its prompt and its parameters, and on nothing else."""

from collections import defaultdict

import pytest
import torch

from gorae import Engine, SamplingParams
from gorae.kernels import log_softmax
from gorae.model import RepeatedPasses


@pytest.fixture
def count_rows(model, monkeypatch):
    """The shapes of the token ids that are read and written, while the test runs."""
    shapes: list[tuple[int, ...]] = []
    hook = model.network.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    write = RepeatedPasses.__call__

    def counted(passes, token_ids_BT, rows):
        shapes.append(tuple(token_ids_BT.shape))
        return write(passes, token_ids_BT, rows)

    monkeypatch.setattr(RepeatedPasses, "__call__", counted)
    yield shapes
    hook.remove()


@pytest.fixture(scope="module")
def params():
    """A parameter set for each of 40 prompts: lengths, temperatures and cuts differ from one to the next."""
    return [
        SamplingParams(
            max_tokens=3 + number % 7,
            temperature=(1.0, 0.7, 0.0, 1.3)[number % 4],
            top_p=(1.0, 0.9)[number % 2],
            seed=1000 + number,
            ignore_eos=True,
        )
        for number in range(40)
    ]


@pytest.fixture(scope="module")
def alone(model, prompts, params):
    """Every request by itself, in an engine of its own that takes one at a time."""
    return [Engine(model, max_batch=1).generate([prompt], one)[0] for prompt, one in zip(prompts, params, strict=True)]


def test_a_request_among_forty_gets_the_bits_it_gets_alone(model, prompts, params, alone):
    assert Engine(model).generate(prompts, params) == alone


@pytest.mark.parametrize("max_batch", [7, 39])
def test_a_batch_smaller_than_the_requests_changes_no_bit(model, prompts, params, alone, max_batch):
    assert Engine(model, max_batch=max_batch).generate(prompts, params) == alone


def test_requests_that_arrive_at_different_steps_get_the_bits_they_get_alone(model, prompts, params, alone):
    engine = Engine(model, max_batch=16)
    waiting = list(zip(range(40), prompts, params, strict=True))
    number_of, tokens, reasons = {}, defaultdict(list), {}
    while waiting or engine.has_work:
        for number, prompt, one in [waiting.pop() for _ in range(min(3, len(waiting)))]:
            number_of[engine.add(prompt, one)] = number
        for event in engine.step():
            tokens[number_of[event.request_id]].append(event.token_id)
            if event.finish_reason:
                reasons[number_of[event.request_id]] = event.finish_reason
    assert [tokens[number] for number in range(40)] == [output.token_ids for output in alone]
    assert [reasons[number] for number in range(40)] == [output.finish_reason for output in alone]


def test_a_cancelled_neighbour_changes_no_bit(model, prompts, params, alone):
    engine = Engine(model)
    ids = [engine.add(prompt, one) for prompt, one in zip(prompts, params, strict=True)]
    tokens = defaultdict(list)
    for step in range(20):
        for event in engine.step():
            tokens[event.request_id].append(event.token_id)
        engine.cancel(ids[2 * step])
    for number in range(1, 40, 2):
        assert tokens[ids[number]] == alone[number].token_ids


def test_an_engine_that_has_worked_before_gives_the_same_tokens(model, prompts, params, alone):
    engine = Engine(model, max_batch=5)
    engine.generate(prompts[20:], params[20:])
    assert engine.generate(prompts[:5], params[:5]) == alone[:5]


def test_one_and_two_threads_sample_the_same(model, prompts):
    before, params = torch.get_num_threads(), SamplingParams(max_tokens=3, seed=1, ignore_eos=True)
    outputs = []
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        outputs.append(Engine(model).generate(prompts, params))
    torch.set_num_threads(before)
    assert outputs[0] == outputs[1]


def test_reported_log_probs_are_the_trainers_to_the_last_bit(model, prompts, rescore):
    params = SamplingParams(max_tokens=40, seed=3, ignore_eos=True)
    for output in Engine(model).generate(prompts, params):
        assert torch.equal(torch.tensor(output.logprobs), rescore(output))


@pytest.mark.parametrize("params", [{"temperature": 0.3}, {"temperature": 0.0}, {"top_p": 0.2}, {"temperature": 3.0}])
def test_reported_log_probs_are_of_the_whole_softmax_at_temperature_1_however_it_was_sampled(
    model, prompts, params, rescore
):
    output = Engine(model).generate(prompts[5:6], SamplingParams(max_tokens=12, seed=3, ignore_eos=True, **params))[0]
    assert torch.equal(torch.tensor(output.logprobs), rescore(output))


def test_the_log_probs_reported_are_those_of_the_public_logits(model, prompts):
    output = Engine(model).generate(prompts[8:9], SamplingParams(max_tokens=9, seed=1, ignore_eos=True))[0]
    log_probs_TW = log_softmax(model.logits(output.prompt_token_ids + output.token_ids[:-1]))
    expected = log_probs_TW[-9:].gather(-1, torch.tensor(output.token_ids)[:, None])[:, 0]
    assert torch.equal(torch.tensor(output.logprobs), expected)


def test_equal_prompts_are_read_once(model, prompts, count_rows):
    params = [SamplingParams(max_tokens=3, seed=seed, ignore_eos=True) for seed in range(12)]
    outputs = Engine(model).generate([prompts[11]] * 8 + [prompts[6]] * 4, params)
    assert count_rows[0] == (2, 57)
    assert count_rows[1:] == [(12, 1), (12, 1)]
    assert len({tuple(output.token_ids) for output in outputs}) > 6, "every request has draws of its own"


def test_the_cache_has_rows_for_what_runs_at_once_and_none_afterwards(model, prompts):
    engine = Engine(model, max_batch=100, prefix_cache=False)
    for num_prompts in (1, 5, 3, 40):
        for prompt in prompts[:num_prompts]:
            engine.add(prompt, SamplingParams(max_tokens=9, ignore_eos=True))
        while len(engine.running) < num_prompts:
            engine.step()
        assert num_prompts == engine.runner.cache.num_rows
        while engine.has_work:
            engine.step()
        assert engine.runner.cache.num_rows == engine.runner.cache.book.num_used == 0


@pytest.mark.parametrize("prefill_tokens", [32, 64, 96])
def test_prompts_are_read_in_chunks_of_any_size_and_give_the_same(
    model, prompts, params, alone, count_rows, prefill_tokens
):
    assert Engine(model, prefill_tokens=prefill_tokens).generate(prompts, params) == alone
    assert all(rows * length <= prefill_tokens for rows, length in count_rows if length > 1)

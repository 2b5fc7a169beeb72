"""Log-probabilities of the prompt: what the network says of it, however it is read, whatever is known of it."""

from dataclasses import replace

import pytest
import torch

from gorae import Engine, SamplingParams
from gorae.engine import logprobs
from gorae.kernels import log_softmax

ASKED = SamplingParams(max_tokens=2, seed=1, ignore_eos=True, prompt_logprobs=3)


def expected(model, prompt):
    """By the public logits: the prompt's own log-probabilities and tables of the three likeliest."""
    log_probs_TW = log_softmax(model.logits(prompt))[:-1]
    own = log_probs_TW.gather(-1, torch.tensor(prompt[1:], dtype=torch.long)[:, None])[:, 0].tolist()
    tables = [{int(i): row[i].item() for i in row.topk(3).indices} for row in log_probs_TW]
    return [None, *own], [{}, *tables]


@pytest.mark.parametrize("prefill_tokens", [32, 2048])
@pytest.mark.parametrize("head_numbers", [1, 1000, 2**22])
def test_a_prompts_log_probs_are_those_of_the_public_logits_to_the_last_bit(
    model, prompts, prefill_tokens, head_numbers, monkeypatch
):
    monkeypatch.setattr(logprobs, "HEAD_NUMBERS", head_numbers)
    prompts = [*prompts[:12], prompts[11] * 2]
    outputs = Engine(model, prefill_tokens=prefill_tokens).generate(prompts, ASKED)
    for prompt, output in zip(prompts, outputs, strict=True):
        assert (output.prompt_logprobs, output.prompt_top_logprobs) == expected(model, prompt)


def test_the_head_is_never_asked_for_more_than_a_few_places(model, prompts, monkeypatch):
    monkeypatch.setattr(logprobs, "HEAD_NUMBERS", 10 * model.config.vocab_size)
    engine, asked = Engine(model), []
    log_probs = engine.runner.log_probs
    monkeypatch.setattr(engine.runner, "log_probs", lambda hidden: asked.append(len(hidden)) or log_probs(hidden))
    engine.generate([prompts[11] * 2], replace(ASKED, max_tokens=1))
    assert sum(asked) == 114
    assert max(asked) == 10


def test_known_beginnings_are_read_again_for_who_asks_and_only_then(model, prompts):
    engine, prompt = Engine(model), prompts[11] * 2
    plain = replace(ASKED, prompt_logprobs=None)
    first, again, asking, last = (engine.generate([prompt], one)[0] for one in (plain, plain, ASKED, plain))
    assert [one.num_cached for one in (first, again, asking, last)] == [0, 96, 0, 96]
    assert (asking.prompt_logprobs, asking.prompt_top_logprobs) == expected(model, prompt)
    assert {tuple(one.token_ids) for one in (first, again, asking, last)} == {tuple(first.token_ids)}


def test_who_asks_and_who_does_not_share_the_reading_of_a_prompt(model, prompts):
    engine, prompt = Engine(model), prompts[11] * 2
    engine.generate([prompt], SamplingParams(max_tokens=1))
    params = [replace(ASKED, prompt_logprobs=number) for number in (None, 0, 3, None, 1)]
    outputs = engine.generate([prompt] * 5, params)
    own, tables = expected(model, prompt)
    assert [output.prompt_logprobs for output in outputs] == [None, own, own, None, own]
    assert [output.prompt_top_logprobs for output in outputs][:4] == [None, None, tables, None]
    assert [len(table) for table in outputs[4].prompt_top_logprobs] == [0] + [1] * (len(prompt) - 1)
    assert len({tuple(output.token_ids) for output in outputs}) == 1


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 6])
def test_a_preemption_while_the_prompt_is_read_or_later_loses_and_doubles_nothing(model, prompts, num_steps):
    engine, prompt = Engine(model, prefill_tokens=32), prompts[11] * 2
    engine.add(prompt, replace(ASKED, max_tokens=9))
    (request,) = engine.waiting
    for _ in range(num_steps):
        engine.step()
    engine.preempt()
    while engine.has_work:
        engine.step()
    output = request.output(None)
    assert (output.prompt_logprobs, output.prompt_top_logprobs) == expected(model, prompt)


def test_a_prompt_of_one_token_has_nothing_before_it(model):
    output = Engine(model).generate([[5]], ASKED)[0]
    assert (output.prompt_logprobs, output.prompt_top_logprobs) == ([None], [{}])


def test_events_carry_the_log_probs_of_their_token(model, prompts):
    params = SamplingParams(max_tokens=5, seed=1, ignore_eos=True, logprobs=2)
    output = Engine(model).generate(prompts[4:5], params)[0]
    engine, events = Engine(model), []
    engine.add(prompts[4], params)
    while engine.has_work:
        events += engine.step()
    assert [event.logprob for event in events] == output.logprobs
    assert [event.top_logprobs for event in events] == output.top_logprobs


def test_more_prompt_log_probs_than_tokens_are_refused(model):
    with pytest.raises(ValueError, match="prompt_logprobs=301 exceeds the vocabulary of 300"):
        Engine(model).add([5], SamplingParams(prompt_logprobs=301))
    with pytest.raises(ValueError, match="prompt_logprobs=-1 must be None or at least 0"):
        SamplingParams(prompt_logprobs=-1)

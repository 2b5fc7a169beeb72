"""What `generate`, `add`, `step` and `cancel` promise: ends, texts, events, and what they refuse."""

from dataclasses import replace

import pytest
import torch

from gorae import Engine, SamplingParams
from gorae.checkpoint import Model
from gorae.config import forward_flops
from gorae.kernels import log_softmax


def generate(model, prompt, **params):
    return Engine(model).generate([prompt], SamplingParams(**params))[0]


@pytest.fixture(scope="module")
def ending(model, prompts):
    """A prompt and a seed whose reply reaches the end of the sequence after a few tokens."""
    params = [SamplingParams(max_tokens=30, seed=seed) for seed in range(100)]
    outputs = Engine(model).generate([prompts[3]] * 100, params)
    seed = next(s for s, one in enumerate(outputs) if one.finish_reason == "stop" and len(one.token_ids) > 2)
    return prompts[3], seed


def test_greedy_takes_the_likeliest_token_every_time(model, prompts):
    output = generate(model, prompts[4], max_tokens=8, temperature=0.0, ignore_eos=True)
    ids = list(prompts[4])
    for token in output.token_ids:
        assert token == int(model.logits(ids)[-1].argmax())
        ids.append(token)


def test_the_tokens_of_many_requests_follow_the_models_own_softmax(model, prompts):
    """From logits to tokens through the whole engine: 3,000 requests of one prompt, each with a seed of its own."""
    params = [SamplingParams(max_tokens=1, seed=seed) for seed in range(3000)]
    drawn = [output.token_ids[0] for output in Engine(model).generate([prompts[1]] * 3000, params)]
    expected_W = 3000 * model.logits(prompts[1])[-1].double().softmax(-1)
    found_W = torch.tensor(drawn).bincount(minlength=model.config.vocab_size)
    likely = expected_W > 5
    chi_square = ((found_W - expected_W)[likely] ** 2 / expected_W[likely]).sum() / likely.sum()
    assert likely.sum() > 50
    assert 0.5 < chi_square < 1.5  # its mean is 1 and its deviation sqrt(2 / classes) < 0.2; the seeds are fixed


def test_the_end_of_the_sequence_stops_and_is_the_last_token(model, ending):
    prompt, seed = ending
    output = generate(model, prompt, max_tokens=40, seed=seed)
    assert output.finish_reason == "stop"
    assert output.token_ids.index(model.config.eos_id) == len(output.token_ids) - 1
    assert len(output.logprobs) == len(output.token_ids)


def test_any_of_several_ends_stops_and_ignore_eos_ignores_them_all(model, ending):
    prompt, seed = ending
    ids = generate(model, prompt, max_tokens=40, seed=seed).token_ids
    others = Model(model.network, replace(model.config, stop_ids=(ids[1],)), model.tokenizer)
    assert generate(others, prompt, max_tokens=40, seed=seed).token_ids == ids[: ids.index(ids[1]) + 1]
    assert len(generate(others, prompt, max_tokens=40, seed=seed, ignore_eos=True).token_ids) == 40
    endless = Model(model.network, replace(model.config, eos_id=None), model.tokenizer)
    assert generate(endless, prompt, max_tokens=40, seed=seed).finish_reason == "length"


def test_ignore_eos_goes_on_past_the_end_with_the_same_tokens_before(model, ending):
    prompt, seed = ending
    stopped = generate(model, prompt, max_tokens=40, seed=seed)
    output = generate(model, prompt, max_tokens=40, seed=seed, ignore_eos=True)
    assert output.finish_reason == "length"
    assert len(output.token_ids) == 40
    assert output.token_ids[: len(stopped.token_ids)] == stopped.token_ids


def test_an_end_at_the_last_token_allowed_is_a_stop(model, ending):
    prompt, seed = ending
    num_tokens = len(generate(model, prompt, max_tokens=40, seed=seed).token_ids)
    assert generate(model, prompt, max_tokens=num_tokens, seed=seed).finish_reason == "stop"
    assert generate(model, prompt, max_tokens=num_tokens - 1, seed=seed).finish_reason == "length"


def test_a_stop_token_ends_the_output_even_where_ends_are_ignored(model, prompts):
    free = Engine(model).generate(prompts[:1], SamplingParams(max_tokens=9, seed=3, ignore_eos=True))[0]
    stop = free.token_ids[4]
    params = SamplingParams(max_tokens=9, seed=3, ignore_eos=True, stop_token_ids=[stop])
    output = Engine(model).generate(prompts[:1], params)[0]
    assert output.token_ids == free.token_ids[: free.token_ids.index(stop) + 1]
    assert output.finish_reason == "stop"


def test_penalties_and_bias_change_the_draw_and_not_the_log_probabilities(model, prompts):
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True, presence_penalty=2, logit_bias={7: 100.0})
    output = Engine(model).generate(prompts[:1], params)[0]
    assert set(output.token_ids) == {7}, "a bias of 100 outweighs any penalty"
    plain = SamplingParams(max_tokens=1, temperature=0, logprobs=model.config.vocab_size)
    (table,) = Engine(model).generate(prompts[:1], plain)[0].top_logprobs
    assert output.logprobs[0] == table[7]


def test_a_penalty_for_every_time_wears_a_favoured_token_out(model, prompts):
    favour = {"max_tokens": 30, "temperature": 0, "ignore_eos": True, "logit_bias": {7: 20.0}}
    steady = Engine(model).generate(prompts[:1], SamplingParams(**favour))[0]
    worn = Engine(model).generate(prompts[:1], SamplingParams(**favour, frequency_penalty=2))[0]
    assert set(steady.token_ids) == {7}
    assert worn.token_ids[0] == 7
    assert worn.token_ids.count(7) < 20


def test_max_tokens_is_the_length_of_what_is_cut(model, prompts):
    for max_tokens in (1, 2, 33):
        output = generate(model, prompts[2], max_tokens=max_tokens, ignore_eos=True)
        assert (len(output.token_ids), output.finish_reason) == (max_tokens, "length")


@pytest.mark.parametrize("moment", ["decode", "begin", "read", "remove"])
def test_an_interrupted_step_leaves_an_engine_that_answers_as_a_new_one(model, prompts, monkeypatch, moment):
    engine, params = Engine(model), SamplingParams(max_tokens=6, seed=1)
    with monkeypatch.context() as patch:

        def interrupt(*_, **__):
            raise KeyboardInterrupt

        patch.setattr(engine.runner, moment, interrupt)
        with pytest.raises(KeyboardInterrupt):
            engine.generate(prompts[:5], params)
    assert not engine.has_work
    assert engine.generate(prompts[3:8], params) == Engine(model).generate(prompts[3:8], params)


def test_every_forward_pass_is_counted_and_equal_prompts_are_read_once(model):
    counted = []
    engine = Engine(model, count=lambda *, flops, tokens: counted.append((flops, tokens)))
    engine.generate([[5] * 10] * 3, SamplingParams(max_tokens=4, ignore_eos=True))
    read = (forward_flops(model.config, 10, context=5), 10)
    decoded = [(forward_flops(model.config, 3, context=10 + past), 3) for past in (1, 2, 3)]
    assert counted == [read, *decoded]


def test_prompt_and_reply_together_never_pass_max_positions(model, prompts):
    limit = model.config.max_positions
    for prompt in (prompts[11], (prompts[11] * 3)[: limit - 1]):
        output = generate(model, prompt, max_tokens=500, ignore_eos=True)
        assert (len(prompt) + len(output.token_ids), output.finish_reason) == (limit, "length")


def test_a_stop_text_ends_the_output_and_is_not_part_of_its_text(model, prompts):
    whole = generate(model, prompts[5], max_tokens=60, seed=4, ignore_eos=True)
    words = [text for text in (model.tokenizer.decode([token]) for token in whole.token_ids) if text.isascii() and text]
    stop = words[3] + words[4] if words[3] + words[4] in whole.text else words[3]
    output = generate(model, prompts[5], max_tokens=60, seed=4, ignore_eos=True, stop=(stop, "never there"))
    assert output.finish_reason == "stop"
    assert output.text == whole.text[: whole.text.index(stop)]
    assert output.token_ids == whole.token_ids[: len(output.token_ids)]
    assert stop in model.tokenizer.decode(output.token_ids)
    assert stop not in model.tokenizer.decode(output.token_ids[:-1])


def test_the_stop_text_that_comes_first_cuts(model, prompts):
    whole = generate(model, prompts[5], max_tokens=60, seed=4, ignore_eos=True)
    late, early = whole.text[4:6], whole.text[3:6]
    output = generate(model, prompts[5], max_tokens=60, seed=4, ignore_eos=True, stop=(late, early))
    assert output.text == whole.text[: min(whole.text.index(late), whole.text.index(early))]


def test_a_single_stop_text_needs_no_tuple():
    assert SamplingParams(stop="x") == SamplingParams(stop=("x",))


def test_a_text_prompt_is_its_ids_after_a_bos(model):
    ids = [model.tokenizer.bos_id, *model.tokenizer.encode("고래 123")]
    params = {"max_tokens": 9, "seed": 2, "ignore_eos": True}
    assert generate(model, "고래 123", **params) == generate(model, ids, **params)


def test_outputs_come_in_the_order_of_the_prompts_with_their_own_parameters(model, prompts):
    params = [SamplingParams(max_tokens=1 + number % 5, ignore_eos=True) for number in range(40)]
    outputs = Engine(model, max_batch=6).generate(prompts, params)
    assert [output.prompt_token_ids for output in outputs] == prompts
    assert [len(output.token_ids) for output in outputs] == [one.max_tokens for one in params]
    assert Engine(model).generate([]) == []


def test_a_seed_repeats_and_no_seed_is_fresh(model, prompts):
    seeded = {tuple(generate(model, prompts[7], max_tokens=20, seed=-5).token_ids) for _ in range(2)}
    fresh = {tuple(generate(model, prompts[7], max_tokens=20, ignore_eos=True).token_ids) for _ in range(4)}
    assert len(seeded) == 1
    assert len(fresh) == 4


def test_top_log_probs_are_the_likeliest_tokens_at_every_place(model, prompts):
    params = SamplingParams(max_tokens=5, seed=1, ignore_eos=True, logprobs=4)
    plain, listed = Engine(model).generate([prompts[6]] * 2, [replace(params, logprobs=None), params])
    assert (plain.token_ids, plain.logprobs) == (listed.token_ids, listed.logprobs)
    assert plain.top_logprobs is None
    log_probs_TW = log_softmax(model.logits(listed.prompt_token_ids + listed.token_ids[:-1]))[-5:]
    for given, log_probs_W in zip(listed.top_logprobs, log_probs_TW, strict=True):
        likeliest = log_probs_W.topk(4)
        assert list(given) == likeliest.indices.tolist()
        assert list(given.values()) == likeliest.values.tolist()


def test_logprobs_0_lists_none_and_the_whole_vocabulary_can_be_listed(model, prompts):
    assert generate(model, prompts[6], max_tokens=1, logprobs=0).top_logprobs is None
    whole = generate(model, prompts[6], max_tokens=1, logprobs=model.config.vocab_size).top_logprobs
    assert len(whole[0]) == model.config.vocab_size


def test_a_step_gives_every_running_request_one_token_and_names_its_end_once(model, prompts):
    engine = Engine(model, max_batch=2)
    ids = [engine.add(prompt, SamplingParams(max_tokens=2, ignore_eos=True)) for prompt in prompts[:3]]
    assert len(set(ids)) == 3
    steps = []
    while engine.has_work:
        steps.append({event.request_id: event.finish_reason for event in engine.step()})
    first, second, third = ids
    assert steps == [{first: None, second: None}, {first: "length", second: "length"}, {third: None}, {third: "length"}]
    assert engine.step() == []


def test_a_cancelled_request_is_never_named_again(model, prompts):
    engine = Engine(model, max_batch=2)
    params = SamplingParams(max_tokens=4, ignore_eos=True)
    running, other, waiting = (engine.add(prompt, params) for prompt in prompts[:3])
    engine.step()
    engine.cancel(running)
    engine.cancel(waiting)
    engine.cancel(12345)
    named = [event.request_id for _ in range(5) for event in engine.step()]
    assert named == [other] * 3
    assert not engine.has_work


def test_a_model_without_a_tokenizer_continues_ids_and_gives_no_text(model, prompts):
    mute = Model(model.network, model.config, None)
    params = SamplingParams(max_tokens=5, seed=1, ignore_eos=True)
    output = Engine(mute).generate(prompts[:1], params)[0]
    assert output.token_ids == Engine(model).generate(prompts[:1], params)[0].token_ids
    assert output.text == ""


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"max_tokens": 0}, "max_tokens=0 must be at least 1"),
        ({"temperature": -0.1}, "temperature=-0.1 must be 0 (greedy) or more"),
        ({"temperature": float("nan")}, "temperature=nan must be 0 (greedy) or more"),
        ({"top_p": 0.0}, "top_p=0.0 must lie above 0 and not above 1"),
        ({"top_p": 1.1}, "top_p=1.1 must lie above 0 and not above 1"),
        ({"stop": ("a", "")}, "stop=('a', '') must not hold an empty text; remove it"),
        ({"stop": ""}, "must not hold an empty text; remove it"),
        ({"logprobs": -1}, "logprobs=-1 must be None or at least 0"),
        ({"top_k": -1}, "top_k=-1 must be 0 (all) or more"),
        ({"min_p": 1.5}, "min_p=1.5 must lie between 0 and 1"),
        ({"presence_penalty": 3.0}, "presence_penalty=3.0 must lie between -2 and 2"),
        ({"frequency_penalty": -3.0}, "frequency_penalty=-3.0 must lie between -2 and 2"),
        ({"logit_bias": {1: float("-inf")}}, "logit_bias={1: -inf} must be finite"),
    ],
)
def test_sampling_parameters_that_make_no_sense_are_refused_with_the_rule(given, sentence):
    with pytest.raises(ValueError) as error:
        SamplingParams(**given)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("prompt", "params", "sentence"),
    [
        ([], {}, "the prompt is empty; give at least one token"),
        ([5, 300], {}, "token id 300 lies outside the vocabulary of 300"),
        ([-1], {}, "token id -1 lies outside the vocabulary of 300"),
        ([5] * 160, {}, "the prompt has 160 tokens and the model reads at most 160, one of them to be written"),
        ([5], {"logprobs": 301}, "logprobs=301 exceeds the vocabulary of 300"),
        ([5], {"logit_bias": {300: 1.0}}, "logit_bias={300: 1.0} names a token outside the vocabulary of 300"),
        ([5], {"stop_token_ids": (-1,)}, "stop_token_ids=(-1,) names a token outside the vocabulary of 300"),
    ],
)
def test_a_request_that_can_not_be_run_is_refused_at_the_door(model, prompt, params, sentence):
    engine = Engine(model)
    for refused in (engine.add, lambda prompt, params: engine.generate([[5], prompt], params)):
        with pytest.raises(ValueError) as error:
            refused(prompt, SamplingParams(**params))
        assert sentence in str(error.value)
        assert not engine.has_work, "nothing of a refused call is left in the queue"


def test_texts_and_stop_texts_need_a_tokenizer(model):
    engine = Engine(Model(model.network, model.config, None))
    with pytest.raises(ValueError, match="this model has no tokenizer; give token ids instead of text"):
        engine.generate(["text"])
    with pytest.raises(ValueError, match="this model has no tokenizer to find stop texts with"):
        engine.generate([[5]], SamplingParams(stop="."))


def test_as_many_parameters_as_prompts_or_one_for_all(model):
    for num_params in (0, 1, 3):
        with pytest.raises(ValueError, match=rf"2 prompts were given with {num_params} SamplingParams; give one, or"):
            Engine(model).generate([[5], [6]], [SamplingParams()] * num_params)


@pytest.mark.parametrize("prompts", ["one text", [5, 6, 7]])
def test_a_single_prompt_in_place_of_a_list_is_told_apart(model, prompts):
    with pytest.raises(
        ValueError, match=r"prompts is one prompt; give a list of prompts, as in generate\(\[prompt\]\)"
    ):
        Engine(model).generate(prompts)


def test_an_engine_without_room_is_refused(model):
    with pytest.raises(ValueError, match="max_batch=0 must be at least 1"):
        Engine(model, max_batch=0)


def test_a_stop_text_is_found_in_whatever_pieces_it_comes_and_only_its_length_is_looked_back(model, tokenizer):
    text = "whales live in the sea, and the sea is deep"
    for stop in ("the sea", "e", "sea, and the sea is deep"):
        request = Engine(model).admissible([5], SamplingParams(max_tokens=99, stop=("never", stop)))
        ids = [token_id for character in text for token_id in tokenizer.encode(character)]
        while request.finish_reason is None:
            request.take(ids[len(request.token_ids)], -1.0, end_ids=(), max_positions=999)
            assert len(request.tail) < max(len("never"), len(stop))
        assert request.finish_reason == "stop"
        assert len(request.token_ids) == text.index(stop) + len(stop)

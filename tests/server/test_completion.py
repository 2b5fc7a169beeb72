"""Prompts continued as they stand: by the official client, and as our own measurement of parity asks."""

import httpx
import openai
import pytest
import torch

from gorae.checkpoint import Model
from gorae.config import ModelConfig
from gorae.engine import Engine, SamplingParams
from gorae.model import Network
from gorae.posttrain.sides import EndpointSide, GoraeSide, Prompt

TEXT = "3에서 5를 더하면"


@pytest.fixture
def model(tokenizer) -> Model:
    config = ModelConfig.dense(
        vocab_size=tokenizer.vocab_size,
        model_dim=16,
        num_layers=1,
        num_heads=2,
        head_dim=8,
        dense_dim=16,
        max_positions=200,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
    )
    return Model(Network(config, seed=1).eval(), config, tokenizer)


@pytest.fixture
def url(start, model) -> str:
    return start(Engine(model))


@pytest.fixture
def ask(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        yield lambda prompt, **fields: client.completions.create(model="whale", prompt=prompt, **fields)


def test_a_text_goes_on_as_the_engine_goes_on_with_it(ask, model):
    (output,) = Engine(model).generate([TEXT], SamplingParams(max_tokens=9, seed=3))
    reply = ask(TEXT, max_tokens=9, seed=3)
    assert reply.object == "text_completion"
    (choice,) = reply.choices
    assert (choice.text, choice.finish_reason, choice.logprobs) == (output.text, output.finish_reason, None)
    ids = output.prompt_token_ids
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (len(ids), len(output.token_ids))
    assert ask(ids, max_tokens=9, seed=3).choices[0].text == output.text, "ids are as good as text"
    assert len(ask(TEXT).choices[0].text) > 0, "16 tokens, unless told otherwise"


def test_several_prompts_are_answered_in_order(ask, tokenizer):
    texts = [TEXT, "답: 8", "yes"]
    alone = [ask(text, max_tokens=5, seed=1).choices[0].text for text in texts]
    together = ask(texts, max_tokens=5, seed=1)
    assert [choice.text for choice in together.choices] == alone
    assert [choice.index for choice in together.choices] == [0, 1, 2]
    ids = [[*tokenizer.text_start_ids, *tokenizer.encode(text)] for text in texts]
    assert [choice.text for choice in ask(ids, max_tokens=5, seed=1).choices] == alone
    assert together.usage.prompt_tokens == sum(map(len, ids))


def test_an_echoed_prompt_lists_what_its_own_tokens_have_and_may_end_there(ask, model, tokenizer):
    ids = [*tokenizer.text_start_ids, *tokenizer.encode(TEXT)]
    log_probs = torch.log_softmax(model.logits(ids), -1)
    reply = ask(TEXT, max_tokens=0, echo=True, logprobs=2)
    (choice,) = reply.choices
    assert (choice.text, choice.finish_reason, reply.usage.completion_tokens) == (TEXT, "length", 0)
    listed = choice.logprobs
    assert listed.tokens == [tokenizer.piece(token_id)[0] for token_id in ids]
    assert listed.token_logprobs[0] is None
    expected = [log_probs[place, token_id].item() for place, token_id in enumerate(ids[1:])]
    assert listed.token_logprobs[1:] == pytest.approx(expected, abs=1e-5)
    assert listed.top_logprobs[0] is None
    best = log_probs[0].topk(2).values.tolist()
    assert sorted(listed.top_logprobs[1].values(), reverse=True) == pytest.approx(best, abs=1e-5)
    longer = ask(ids, max_tokens=3, echo=True, logprobs=0, seed=1).choices[0]
    assert len(longer.logprobs.tokens) == len(ids) + 3
    assert longer.logprobs.token_logprobs[1 : len(ids)] == listed.token_logprobs[1:]
    assert longer.logprobs.top_logprobs is None
    assert longer.text.startswith(TEXT)


def test_tokens_are_told_by_their_ids_to_those_who_ask(ask, model):
    named = {"return_token_ids": True, "return_tokens_as_token_ids": True}
    (output,) = Engine(model).generate([TEXT], SamplingParams(max_tokens=6, seed=3))
    choice = ask(TEXT, max_tokens=6, seed=3, logprobs=1, extra_body=named).choices[0]
    assert choice.token_ids == output.token_ids
    assert choice.logprobs.tokens == [f"token_id:{token_id}" for token_id in output.token_ids]
    assert choice.logprobs.token_logprobs == pytest.approx(output.logprobs)


def test_a_stream_has_the_pieces_of_the_same_text(ask):
    fields = {"max_tokens": 12, "seed": 3, "logprobs": 1, "echo": True}
    whole = ask(TEXT, **fields)
    chunks = list(ask(TEXT, **fields, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    listed = [token for chunk in chunks[:-1] for token in chunk.choices[0].logprobs.tokens]
    assert listed == whole.choices[0].logprobs.tokens
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage


def test_a_stop_text_ends_it_and_is_not_part_of_it(start, script, tokenizer):
    engine = script("더하면 8. 답: 8 yes")
    asked = {"model": "whale", "prompt": TEXT, "max_tokens": 50, "stop": " 답"}
    reply = httpx.post(f"{start(engine)}/v1/completions", json=asked).json()
    assert (reply["choices"][0]["text"], reply["choices"][0]["finish_reason"]) == ("더하면 8.", "stop")
    assert engine.prompts == [[*tokenizer.text_start_ids, *tokenizer.encode(TEXT)]]
    control = f"{tokenizer.piece(tokenizer.eos_id)[0]} yes"
    asked = {"model": "whale", "prompt": control, "max_tokens": 1}
    httpx.post(f"{start(engine := script('yes'))}/v1/completions", json=asked)
    assert tokenizer.eos_id not in engine.prompts[0], "what a text holds is no control token"


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"prompt": ""}, None, None),
        ({"prompt": []}, "prompt", "prompt must be texts or token ids, none empty"),
        ({"prompt": [TEXT, []]}, "prompt", "prompt must be texts or token ids, none empty"),
        ({"prompt": [1, "a"]}, "prompt", "prompt must be texts or token ids, none empty"),
        ({"prompt": [True]}, "prompt", "prompt must be texts or token ids, none empty"),
        ({"prompt": [5] * 200}, "prompt", "prompt is 200 tokens long; this model holds 200"),
        ({"prompt": [10**6]}, None, "the engine refuses this request: token id 1000000 lies outside"),
        ({"prompt": [TEXT, TEXT], "stream": True}, "stream", "2 prompts can not share one stream"),
        ({"prompt": TEXT, "max_tokens": -1}, "max_tokens", "max_tokens is -1"),
        ({"prompt": TEXT, "n": 2}, "n", "n=2 would change the reply"),
        ({"prompt": TEXT, "ecko": True}, "ecko", "ecko is not a field of this API; did you mean echo?"),
        ({"prompt": TEXT, "model": "shark"}, "model", '"shark" is not served here'),
        ({}, "prompt", "prompt is missing"),
    ],
)
def test_what_can_not_be_honoured_is_refused_by_name(url, fields, param, told):
    answer = httpx.post(f"{url}/v1/completions", json={"model": "whale"} | fields)
    if told is None:
        assert answer.status_code == 200, "an empty text is its begin"
        return
    error = answer.json()["error"]
    assert answer.status_code in (400, 404)
    assert told in error["message"]
    assert error["param"] == param


def test_parity_asks_it_for_tokens_and_for_scores(url, model):
    ours, served = GoraeSide("ours", model), EndpointSide(f"{url}/v1", None, model.tokenizer)
    prompts = [Prompt([*model.tokenizer.text_start_ids, *model.tokenizer.encode(text)], text) for text in (TEXT, "yes")]
    samples = served.sample(prompts, num_tokens=6, seed=5)
    for one, again in zip(samples, ours.sample(prompts, num_tokens=6, seed=5), strict=True):
        assert one.reply_ids == again.reply_ids
        assert one.log_probs == pytest.approx(again.log_probs, abs=1e-6)
    for one, scored in zip(samples, served.score(samples), strict=True):
        assert scored == pytest.approx(one.log_probs, abs=1e-6)

"""Answers in JSON through the whole server, with a small model that knows nothing of it."""

import json

import openai
import pytest

from gorae.checkpoint import Model
from gorae.config import ModelConfig
from gorae.engine import Engine
from gorae.model import Network

SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}, "sure": {"type": "boolean"}},
    "required": ["answer", "sure"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},  # a random model writes white space for ever
}
QUESTION = [{"role": "user", "content": "3에서 5를 더하면?"}]


@pytest.fixture
def url(start, tokenizer) -> str:
    config = ModelConfig.dense(
        vocab_size=tokenizer.vocab_size + 3,  # as published models have more rows than tokens
        model_dim=16,
        num_layers=1,
        num_heads=2,
        head_dim=8,
        dense_dim=16,
        max_positions=200,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
    )
    return start(Engine(Model(Network(config, seed=1).eval(), config, tokenizer), speculation="auto"))


@pytest.fixture
def ask(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:

        def ask(response_format, *, thinking="disabled", **fields):
            return client.chat.completions.create(
                model="whale",
                messages=QUESTION,
                response_format=response_format,
                extra_body={"thinking": {"type": thinking}},
                **fields,
            )

        yield ask


def schema(of=SCHEMA) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "sum", "strict": True, "schema": of}}


@pytest.mark.parametrize("seed", range(3))
def test_the_official_client_gets_json_that_fits_its_schema(ask, seed):
    choice = ask(schema(), seed=seed).choices[0]
    found = json.loads(choice.message.content)
    assert (list(found), type(found["answer"]), type(found["sure"])) == (["answer", "sure"], int, bool)
    assert choice.finish_reason == "stop"


def test_the_answer_behind_the_thinking_is_held_and_the_thinking_is_not(ask, tokenizer):
    bias = {str(tokenizer.end_think_id): 6.0}  # else a random model thinks for ever
    choice = ask(schema(), thinking="enabled", seed=3, logit_bias=bias).choices[0]
    assert choice.message.reasoning_content
    assert list(json.loads(choice.message.content)) == ["answer", "sure"]


def test_a_stream_of_json_is_the_same_json(ask):
    whole = ask(schema(), seed=1).choices[0].message.content
    chunks = list(ask(schema(), seed=1, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole


def test_any_object_will_do_without_a_schema(ask):
    choice = ask({"type": "json_object"}, seed=1, max_tokens=60).choices[0]
    assert choice.message.content.lstrip().startswith("{")


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [({"type": "objekt"}, "Invalid type: objekt"), ({"type": "string", "pattern": "("}, "unclosed group")],
)
def test_a_schema_that_is_none_is_a_bad_request_that_says_why(ask, wrong, complaint):
    with pytest.raises(openai.BadRequestError, match=complaint) as refusal:
        ask(schema(wrong))
    assert refusal.value.param == "response_format"
    assert ask(schema(), seed=1).choices[0].finish_reason == "stop", "and the server goes on"

import json

import pytest

from gorae.server import ApiError
from gorae.server.schema import read_request

FIELDS = {"model": "whale", "messages": [{"role": "user", "content": "hello"}]}


def read(**fields):
    return read_request(json.dumps(FIELDS | fields).encode())


def refusal(**fields) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(**fields)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        (
            {"max_tokens": "ten"},
            "max_tokens",
            'max_tokens is "ten": expected `int | null`, got `str`; send',
        ),
        ({"max_tokens": 0}, "max_tokens", "max_tokens is 0: expected `int` >= 1"),
        ({"max_tokens": True}, "max_tokens", "max_tokens is true"),
        ({"temperature": 3}, "temperature", "temperature is 3: expected `float` <= 2.0"),
        ({"top_p": 0}, "top_p", "top_p is 0: expected `float` > 0.0"),
        ({"seed": -1}, "seed", "seed is -1"),
        ({"seed": 2**70}, "seed", "seed is 1180591620717411303424"),
        ({"stop": ""}, "stop", 'stop is ""'),
        ({"stop": ["a"] * 17}, "stop", "length <= 16"),
        ({"stream": 1}, "stream", "stream is 1: expected `bool`"),
        ({"messages": []}, "messages", "messages is []: expected `array` of length >= 1"),
        ({"messages": ["hello"]}, "messages[0]", 'messages[0] is "hello": expected `object`'),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "messages[0].content is missing"),
        ({"messages": [{"role": "critic", "content": ""}]}, "messages[0].role", "must be system, developer, user, a"),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content", "messages[0].content is missing"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]},
            "messages[0].tool_calls[0].function",
            "messages[0].tool_calls[0].function is missing",
        ),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "tools[0].function is missing"),
        ({"tools": [{"type": "search", "function": {"name": "f"}}]}, "tools[0].type", "must be function, the only"),
        ({"tool_choice": "required"}, "tool_choice", "must be auto or none, as this server cannot force a call"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
            "must be text, the only kind of content this model reads",
        ),
        ({"thinking": {"type": "much"}}, "thinking.type", 'thinking.type is "much": must be enabled or disabled'),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "thinking", "unknown field `budget_tokens`"),
        ({"model": None}, "model", "model is missing"),
        ({"response_format": "json"}, "response_format", 'response_format is "json": expected `object'),
        (
            {"response_format": {"type": "xml"}},
            "response_format.type",
            'response_format.type is "xml": must be text, json_object or json_schema',
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
            "response_format.json_schema.name is missing",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": [1]}}},
            "response_format.json_schema.schema",
            "response_format.json_schema.schema is [1]: expected `object",
        ),
        ({"logprobs": 3}, "logprobs", "logprobs is 3: expected `bool"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "top_logprobs is 21: expected `int` <= 20"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs", "top_logprobs is -1: expected `int` >= 0"),
    ],
)
def test_a_wrong_field_is_named_with_value_rule_and_example(fields, param, sentence):
    error = refusal(**fields)
    assert error.param == param
    assert sentence in str(error)
    assert "send for example" in str(error)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"temperature": NaN}'])
def test_a_body_that_is_no_json_object_is_refused(body):
    with pytest.raises(ApiError, match="send an object such as") as caught:
        read_request(body)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


@pytest.mark.parametrize(
    "field",
    [
        {"n": 2},
        {"reasoning_effort": "high"},
    ],
)
def test_a_known_field_that_would_change_the_reply_is_refused_by_name(field):
    (name,) = field
    error = refusal(**field)
    assert (error.param, error.code) == (name, "unsupported_field")
    assert "leave it out" in str(error)


def test_what_shapes_the_draw_goes_to_the_engine():
    fields = {"top_k": 40, "min_p": 0.05, "presence_penalty": 0.5, "frequency_penalty": -1}
    params = read(**fields, logit_bias={"5": 1.5}).sampling_params(room=9)
    assert {name: getattr(params, name) for name in fields} == fields
    assert params.logit_bias == {5: 1.5}


def test_a_response_format_becomes_a_constraint_that_begins_where_the_prompt_ends():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    named = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema}}
    for wanted, text in (({"type": "json_object"}, {"type": "object"}), (named, schema)):
        for mode in ("think", "direct", "free"):
            constraint = read(response_format=wanted).sampling_params(room=9, mode=mode).constraint
            assert (constraint.kind, json.loads(constraint.text), constraint.mode) == ("json_schema", text, mode)
    assert read(response_format={"type": "text"}).sampling_params(room=9).constraint is None


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format of type json_schema needs json_schema; send"),
        (
            {"response_format": {"type": "json_object", "json_schema": {"name": "a"}}},
            "response_format of type json_object takes no json_schema; send",
        ),
        (
            {
                "response_format": {"type": "json_object"},
                "tools": [{"type": "function", "function": {"name": "f"}}],
            },
            "response_format of type json_object leaves no way to call tools; leave one of them out",
        ),
    ],
)
def test_a_response_format_that_contradicts_itself_or_the_tools_is_refused(fields, sentence):
    error = refusal(**fields)
    assert error.param.startswith("response_format")
    assert sentence in str(error)


def test_log_probs_go_to_the_engine_and_lists_need_them():
    assert read().sampling_params(room=9).logprobs is None
    assert read(logprobs=True).sampling_params(room=9).logprobs == 0
    assert read(logprobs=True, top_logprobs=20).sampling_params(room=9).logprobs == 20
    assert read(logprobs=False, top_logprobs=0).sampling_params(room=9).logprobs is None
    error = refusal(top_logprobs=5)
    assert (error.param, str(error)) == (
        "top_logprobs",
        'top_logprobs=5 is asked for without logprobs; send "logprobs": true with it',
    )


@pytest.mark.parametrize("bias", [{"whale": 1}, {"5": 101}, {"5": "1"}, [5]])
def test_a_bias_is_a_table_of_token_ids_and_numbers_within_100(bias):
    error = refusal(logit_bias=bias)
    assert error.param.startswith("logit_bias")
    assert "send for example" in str(error)


def test_known_fields_that_change_nothing_are_accepted():
    harmless = {"user": "me", "metadata": {}, "n": 1, "presence_penalty": 0, "tools": [], "logprobs": False}
    assert read(**harmless, response_format={"type": "text"}, seed=None) == read()


def test_a_turn_of_ours_can_be_sent_back_as_the_official_client_dumps_it():
    turn = {"role": "assistant", "content": "hi", "reasoning_content": "greet", "refusal": None, "tool_calls": None}
    asked = read(messages=[FIELDS["messages"][0], turn, FIELDS["messages"][0]])
    assert asked.messages[1].as_message().content == "hi"


def test_an_unknown_field_is_refused_with_the_nearest_name():
    assert str(refusal(temprature=1)) == "temprature is not a field of this API; did you mean temperature?"
    in_message = refusal(messages=[{"role": "user", "content": "a", "weight": 1}])
    assert in_message.param == "messages[0].weight"


def test_two_names_for_one_limit_must_agree():
    assert "are two names for one limit" in str(refusal(max_tokens=5, max_completion_tokens=6))
    assert read(max_tokens=5, max_completion_tokens=5).sampling_params(room=9).max_tokens == 5


def test_a_long_value_is_shown_shortened():
    assert len(str(refusal(messages="x" * 10_000))) < 300

"""Tool calls over the wire, with a model that writes DeepSeek-V3.1's format, as the official client sees them."""

import openai
import pytest
import tokenizers
from scripted import ScriptedEngine, running

from gorae.client import ChatClient, whole_reply
from gorae.server import create_api
from gorae.text import EOS, TOOL_TOKENS, V3_1, Tokenizer

QUESTION = {"role": "user", "content": "3 5?"}
ADD = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}
REPLY = (
    'user yes<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{"a": [3, 5]}<｜tool▁call▁end｜>'
    "<｜tool▁call▁begin｜>add<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)


@pytest.fixture(scope="module")
def caller(tokenizer) -> Tokenizer:
    library = tokenizers.Tokenizer.from_str(tokenizer._library.to_str())
    library.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in TOOL_TOKENS])
    return Tokenizer(library, chat_format=V3_1)


@pytest.fixture
def engine(caller) -> ScriptedEngine:
    return ScriptedEngine(caller.encode(REPLY + EOS, parse_special=True))


@pytest.fixture
def client(caller, engine):
    api = create_api(engine, caller, "whale", max_positions=2000)
    with running(api) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_a_call_arrives_whole_and_its_result_goes_back(client, caller, engine):
    first = client.chat.completions.create(model="whale", messages=[QUESTION], tools=[ADD]).choices[0]
    assert first.finish_reason == "tool_calls"
    assert first.message.content == "user yes"
    called = first.message.tool_calls
    assert [(call.type, call.function.name, call.function.arguments) for call in called] == [
        ("function", "add", '{"a": [3, 5]}'),
        ("function", "add", "{}"),
    ]
    assert len({call.id for call in called}) == 2
    results = [{"role": "tool", "tool_call_id": call.id, "content": "8"} for call in called]
    messages = [QUESTION, first.message.model_dump(), *reversed(results)]
    client.chat.completions.create(model="whale", messages=messages, tools=[ADD])
    end = f"<｜User｜>3 5?<｜Assistant｜></think>{REPLY}{EOS}" + "<｜tool▁output▁begin｜>8<｜tool▁output▁end｜>" * 2
    end_ids = caller.encode(end, parse_special=True)
    assert engine.prompts[1][-len(end_ids) :] == end_ids


def test_a_streamed_call_is_its_name_and_then_its_arguments_in_pieces(client):
    stream = client.chat.completions.create(model="whale", messages=[QUESTION], tools=[ADD], stream=True)
    choices = [chunk.choices[0] for chunk in stream]
    calls = [call for choice in choices for call in choice.delta.tool_calls or ()]
    assert choices[-1].finish_reason == "tool_calls"
    assert "".join(choice.delta.content or "" for choice in choices) == "user yes"
    assert [(call.index, call.function.name) for call in calls if call.id] == [(0, "add"), (1, "add")]
    assert "".join(call.function.arguments for call in calls if call.index == 0) == '{"a": [3, 5]}'
    assert sum(call.index == 0 for call in calls) > 2


@pytest.mark.parametrize("extra", [{}, {"tools": [ADD], "tool_choice": "none"}])
def test_a_call_nobody_offered_stays_text(client, caller, engine, extra):
    reply = client.chat.completions.create(model="whale", messages=[QUESTION], **extra).choices[0]
    assert (reply.message.content, reply.message.tool_calls, reply.finish_reason) == (REPLY, None, "stop")
    assert "Adds." not in caller.decode(engine.prompts[0])


@pytest.mark.parametrize(
    ("fields", "param", "complaint"),
    [
        ({"tools": [ADD | {"function": {"name": "a b"}}]}, "tools", "a tool can not be called 'a b'"),
        (
            {"tools": [ADD | {"function": {"name": "f", "strict": True}}]},
            "tools[0].function.strict",
            "cannot honour it",
        ),
        (
            {"messages": [QUESTION, {"role": "tool", "content": "8", "tool_call_id": "a"}]},
            "messages",
            "message 1 answers the tool call 'a', which is not open",
        ),
        ({"messages": [QUESTION, {"role": "tool", "content": "8"}]}, "messages", "says which call it answers"),
    ],
)
def test_what_does_not_fit_is_refused(client, fields, param, complaint):
    with pytest.raises(openai.BadRequestError, match=complaint) as refusal:
        client.chat.completions.create(**{"model": "whale", "messages": [QUESTION]} | fields)
    assert refusal.value.param == param


def test_a_model_without_tools_refuses_them(start, script):
    with (
        openai.OpenAI(base_url=f"{start(script())}/v1", api_key="any", max_retries=0) as client,
        pytest.raises(
            openai.BadRequestError, match="how this model would call a tool is not known; send no"
        ) as refusal,
    ):
        client.chat.completions.create(model="whale", messages=[QUESTION], tools=[ADD])
    assert refusal.value.param == "tools"


def test_our_client_reads_calls_whole_and_streamed_and_sends_their_results_back(caller, engine):
    api = create_api(engine, caller, "whale", max_positions=2000)
    with running(api) as url, ChatClient(f"{url}/v1") as client:
        reply = client.complete([QUESTION], tools=[ADD])
        deltas = list(client.stream([QUESTION], tools=[ADD]))
        streamed = whole_reply(deltas)
        calls = [(call.name, call.arguments) for call in reply.tool_calls]
        assert calls == [("add", '{"a": [3, 5]}'), ("add", "{}")]
        assert [(call.name, call.arguments) for call in streamed.tool_calls] == calls
        assert (streamed.content, streamed.finish_reason) == (reply.content, reply.finish_reason)
        assert (reply.content, reply.finish_reason) == ("user yes", "tool_calls")
        assert streamed.usage == reply.usage
        assert sum(len(delta.tool_calls) for delta in deltas) > 4
        assert len({call.id for call in (*reply.tool_calls, *streamed.tool_calls)}) == 4
        results = [{"role": "tool", "tool_call_id": call.id, "content": "8"} for call in reply.tool_calls]
        client.complete([QUESTION, reply.message, *results], tools=[ADD])
        results = [{"role": "tool", "tool_call_id": call.id, "content": "8"} for call in streamed.tool_calls]
        client.complete([QUESTION, streamed.message, *results])
    end = f"{REPLY}{EOS}" + "<｜tool▁output▁begin｜>8<｜tool▁output▁end｜>" * 2
    end_ids = caller.encode(end, parse_special=True)
    assert [prompt[-len(end_ids) :] == end_ids for prompt in engine.prompts] == [False, False, True, True]

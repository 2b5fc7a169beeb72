"""What follows a reply that called tools, encoded alone, has the ids that the whole conversation has there."""

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from gorae.text import EOS, FORMATS, R1, TOOL_TOKENS, V3, V3_1, Message, Tokenizer, ToolCall

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "chat_formats.json").read_text(encoding="utf-8"))
QUESTION = Message("user", "고래 몇 마리?")
pieces = [*"3 a\n고鲸", *TOOL_TOKENS, EOS, "<", "<｜User｜>", "```", "</think>", "{}"]
contents = st.lists(st.sampled_from(pieces), max_size=6).map("".join)


@pytest.fixture(scope="session", params=["tokens", "text"])
def library(request, tokenizer) -> tokenizers.Tokenizer:
    """With the marks of calls and results as control tokens, or as the plain text that they are to distilled models."""
    library = tokenizers.Tokenizer.from_str(tokenizer._library.to_str())
    if request.param == "tokens":
        library.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in TOOL_TOKENS])
    return library


def conversation(rounds) -> list[Message]:
    messages = [QUESTION]
    for said, results in rounds:
        calls = tuple(ToolCall(f"call_{place}", "count", "{}") for place in range(len(results)))
        messages.append(Message("assistant", said, tool_calls=calls))
        answers = [Message("tool", text, tool_call_id=call.id) for text, call in zip(results, calls, strict=True)]
        messages += answers
    return messages


@pytest.mark.parametrize("chat_format", [V3, R1, V3_1], ids=lambda one: one.name)
@given(rounds=st.lists(st.tuples(contents, st.lists(contents, min_size=1, max_size=3)), min_size=1, max_size=3))
def test_results_encoded_alone_are_the_difference_between_two_conversations(library, chat_format, rounds):
    tokenizer = Tokenizer(library, chat_format=chat_format)
    messages = conversation(rounds)
    results = rounds[-1][1]
    replied = tokenizer.encode_conversation(messages[: -len(results)])
    assert replied[-1] == tokenizer.eos_id
    assert replied + tokenizer.encode_results(results) == tokenizer.encode_chat(messages)


@pytest.mark.parametrize("golden", [case for case in GOLDEN["prompts"] if case["conversation"] == "results"])
def test_results_are_what_the_published_template_writes_behind_the_end_of_the_reply(golden):
    tools = FORMATS[golden["format"]].tools
    assert tools is not None
    results = [turn["content"] for turn in GOLDEN["conversations"]["results"] if turn["role"] == "tool"]
    assert "".join(text for text, _ in tools.write_results(results)) == golden["prompt"].rpartition(EOS)[2]


def test_a_format_without_tools_has_no_results(tokenizer):
    with pytest.raises(ValueError, match="the format gorae has no tools; there are no calls to give results of"):
        tokenizer.encode_results(["2"])

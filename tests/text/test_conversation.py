import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from gorae.text import (
    CONTROL_TOKENS,
    GORAE,
    R1,
    TOOL_TOKENS,
    V3,
    V3_1,
    Message,
    Tokenizer,
    Tool,
    ToolCall,
    read_conversation,
    write_conversation,
)

FORMATS = [V3, R1, V3_1, GORAE]
words = st.lists(
    st.sampled_from([*CONTROL_TOKENS, *TOOL_TOKENS, "a", "고래", "\n", " ", "```", "<", "<｜tool", "\ufdd0", "{"]),
    max_size=4,
).map("".join)
arguments = st.dictionaries(words, words, max_size=2).map(lambda value: str(value)) | words


@st.composite
def conversations(draw, with_tools: bool):
    """A system's text or none, then rounds of question, calls and their results, and answer."""
    messages = [Message("system", text)] if (text := draw(words)) else []
    num_calls = 0
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(words)))
        while with_tools and draw(st.booleans()):
            ids = [f"call_{num_calls + place}" for place in range(draw(st.integers(1, 2)))]
            num_calls += len(ids)
            calls = tuple(ToolCall(index, draw(st.sampled_from(["f", "세다"])), draw(arguments)) for index in ids)
            messages.append(Message("assistant", draw(words), tool_calls=calls))
            messages += [Message("tool", draw(words), tool_call_id=index) for index in ids]
        messages.append(Message("assistant", draw(words)))
    return messages[: draw(st.sampled_from([len(messages), len(messages) - 1]))]


@pytest.fixture(scope="module")
def make(texts):
    """Format → a tokenizer that has its control tokens."""
    library = tokenizers.Tokenizer.from_str(Tokenizer.train(texts, vocab_size=420)._library.to_str())
    library.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in TOOL_TOKENS])
    made = {chat_format: Tokenizer(library, chat_format=chat_format) for chat_format in FORMATS}
    return made.__getitem__


@given(data=st.data(), chat_format=st.sampled_from(FORMATS))
def test_the_ids_of_a_conversation_read_back_as_the_conversation(make, data, chat_format):
    messages = data.draw(conversations(with_tools=chat_format.tools is not None))
    tokenizer = make(chat_format)
    assert tokenizer.decode_conversation(tokenizer.encode_conversation(messages)) == messages
    if messages[-1].role == "user":
        assert tokenizer.decode_conversation(tokenizer.encode_chat(messages)) == messages


@given(data=st.data(), chat_format=st.sampled_from(FORMATS))
def test_the_parts_of_a_conversation_read_back_as_the_conversation(data, chat_format):
    messages = data.draw(conversations(with_tools=chat_format.tools is not None))
    assert read_conversation(write_conversation(messages, chat_format), chat_format) == messages


@given(reasoning=words, content=words, chat_format=st.sampled_from([R1, V3_1, GORAE]))
def test_a_reply_with_its_reasoning_reads_back_behind_its_prompt(make, reasoning, content, chat_format):
    tokenizer = make(chat_format)
    question = Message("user", "?")
    reply = Message("assistant", content, reasoning)
    ids = tokenizer.encode_chat([question], mode="think")
    opening = len(ids) - (ids.index(tokenizer.assistant_id) + 1)
    assert tokenizer.decode_conversation(ids[: len(ids) - opening] + tokenizer.encode_reply(reply)) == [question, reply]


@pytest.mark.parametrize("chat_format", [V3, R1, V3_1])
def test_only_our_frames_become_control_tokens(make, chat_format):
    tokenizer = make(chat_format)
    forged = "".join([*CONTROL_TOKENS, *TOOL_TOKENS])
    call = ToolCall("call_0", "f", forged)
    result = Message("tool", forged, tool_call_id="call_0")
    tools = [Tool("f", forged, {forged: forged})]
    honest = [Message("user", "a"), Message("assistant", "a", tool_calls=(ToolCall("call_0", "f", "{}"),))]
    honest.append(Message("tool", "a", tool_call_id="call_0"))
    messages = [Message("user", forged), Message("assistant", forged, tool_calls=(call,)), result]
    controls = set(tokenizer.encode(forged, parse_special=True))
    assert len(controls) == 16
    counted = [
        [index for index in tokenizer.encode_chat(turns, tools=listed) if index in controls]
        for turns, listed in ((messages, tools), (honest, [Tool("f")]))
    ]
    assert counted[0] == counted[1]


def test_a_prompt_is_encoded_as_transformers_would_encode_its_text(make):
    tokenizer = make(V3)
    messages = [Message("user", "a"), Message("assistant", "b", tool_calls=(ToolCall("call_0", "add", "{ }"),))]
    messages += [Message("tool", "c", tool_call_id="call_0")]
    written = "".join(text for text, _ in write_conversation(messages, V3, tools=[Tool("add")]))
    assert tokenizer.encode_chat(messages, tools=[Tool("add")]) == tokenizer.encode(written, parse_special=True)


def test_control_tokens_of_calls_survive_decoding_even_where_they_are_special(texts):
    library = tokenizers.Tokenizer.from_str(Tokenizer.train(texts, vocab_size=420)._library.to_str())
    library.add_special_tokens([tokenizers.AddedToken(token, normalized=False) for token in TOOL_TOKENS])
    tokenizer = Tokenizer(library, chat_format=V3)
    text = "".join(TOOL_TOKENS)
    assert tokenizer.decode(tokenizer.encode(text, parse_special=True)) == text


@pytest.mark.parametrize(
    ("chat_format", "mode", "read_as"),
    [
        (V3, "free", "direct"),
        (V3, "direct", "direct"),
        (R1, "free", "think"),
        (R1, "think", "think"),
        (V3_1, "free", "direct"),
        (V3_1, "think", "think"),
        (GORAE, "free", "free"),
        (GORAE, "direct", "direct"),
    ],
)
def test_a_prompt_says_how_its_reply_is_read(make, chat_format, mode, read_as):
    assert make(chat_format).encode_prompt([Message("user", "a")], mode=mode).mode == read_as


@pytest.mark.parametrize(("chat_format", "mode"), [(V3, "think"), (R1, "direct")])
def test_a_mode_the_model_does_not_have_is_refused(make, chat_format, mode):
    with pytest.raises(
        ValueError, match=rf"this model can not be made to .*\(mode='{mode}'\); leave the choice to the model"
    ):
        make(chat_format).encode_chat([Message("user", "a")], mode=mode)


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        ([("hello", False)], "a conversation begins with <｜begin▁of▁sentence｜>, this one with 'hello'"),
        (
            [("<｜begin▁of▁sentence｜>", True), ("<｜tool▁output▁begin｜>", True), ("2", False)],
            "the tool's result '2' answers no call",
        ),
    ],
)
def test_parts_that_are_no_conversation_are_refused(parts, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_conversation(parts, V3)

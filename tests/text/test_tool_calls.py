import pytest
from hypothesis import given
from hypothesis import strategies as st

from gorae.text import (
    END_THINK,
    R1,
    THINK,
    TOOL_TOKENS,
    V3,
    V3_1,
    Delta,
    Reply,
    ReplyParser,
    ToolCall,
    parse_after_results,
    parse_reply,
)
from gorae.text.formats import CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, TOOL_SEP

V3_HEAD = f"{CALLS_BEGIN}{CALL_BEGIN}function{TOOL_SEP}"
V3_CALL = f'{V3_HEAD}count\n```json\n{{"sea": 1}}\n```{CALL_END}'
V3_1_CALL = f'{CALL_BEGIN}count{TOOL_SEP}{{"sea": 1}}{CALL_END}'
CALL = ToolCall("call_0", "count", '{"sea": 1}')
LISTED = ToolCall("call_0", "count", "[]")  # arguments are an object

formats = st.sampled_from([V3, R1, V3_1])
modes = st.sampled_from(["free", "think", "direct"])
pieces = [THINK, END_THINK, "\n", "\n```", "```json\n", "function", "f", "고", "<", "{}", " ", V3_CALL, V3_1_CALL]
replies = st.lists(st.sampled_from([*pieces, *TOOL_TOKENS[:5], CALLS_BEGIN[:7]]), max_size=9).map("".join)


@pytest.mark.parametrize(
    ("text", "chat_format", "reply"),
    [
        (V3_CALL + CALLS_END, V3, Reply(None, "", True, (CALL,))),
        ("Let me see." + V3_CALL + CALLS_END, V3, Reply(None, "Let me see.", True, (CALL,))),
        (f"<think>\nhm\n</think>\n\n{V3_CALL}{CALLS_END}", R1, Reply("hm", "", True, (CALL,))),
        (f"</think>{CALLS_BEGIN}{V3_1_CALL}{CALLS_END}", V3_1, Reply(None, "", True, (CALL,))),
        (
            f"</think>{CALLS_BEGIN}{V3_1_CALL}{V3_1_CALL}{CALLS_END}",
            V3_1,
            Reply(None, "", True, (CALL, ToolCall("call_1", "count", '{"sea": 1}'))),
        ),
        # Almost right: what a program can use is kept, and said to be incomplete.
        (V3_CALL + "\n " + CALLS_END, V3, Reply(None, "", False, (CALL,))),
        (V3_CALL, V3, Reply(None, "", False, (CALL,))),
        (V3_CALL + CALLS_END + "done", V3, Reply(None, "done", False, (CALL,))),
        (V3_CALL + "\nso", V3, Reply(None, "\nso", False, (CALL,))),
        (V3_CALL[:-4], V3, Reply(None, "", False, (ToolCall("call_0", "count", V3_CALL[len(V3_HEAD) + 14 : -4]),))),
        (V3_CALL.replace('{"sea": 1}', "[]") + CALLS_END, V3, Reply(None, "", False, (LISTED,))),
        # No call: all of it is content.
        (V3_HEAD + "count", V3, Reply(None, V3_HEAD + "count", False)),
        (V3_HEAD + "two words\n```json\n{}", V3, Reply(None, V3_HEAD + "two words\n```json\n{}", False)),
        (CALLS_BEGIN + CALLS_END, V3, Reply(None, CALLS_BEGIN + CALLS_END, False)),
        (CALLS_BEGIN + V3_CALL, V3, Reply(None, CALLS_BEGIN, False, (CALL,))),
        (V3_CALL.replace("json", "xml"), V3, Reply(None, V3_CALL.replace("json", "xml"), False)),
    ],
)  # fmt: skip
def test_tool_calls_are_read_leniently_and_judged_strictly(text, chat_format, reply):
    assert parse_reply(text, chat_format=chat_format) == reply


def test_our_own_format_reads_no_calls():
    assert parse_reply(END_THINK + V3_CALL) == Reply(None, V3_CALL, True)


@given(text=replies, mode=modes, chat_format=formats)
def test_every_cut_in_two_gives_the_same_reply(text, mode, chat_format):
    whole = streamed([text], mode, chat_format)
    for cut in range(len(text) + 1):
        assert streamed([text[:cut], text[cut:]], mode, chat_format) == whole


@given(text=replies, mode=modes, chat_format=formats, data=st.data())
def test_many_cuts_give_the_same_reply(text, mode, chat_format, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=30)))
    cut = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert streamed(cut, mode, chat_format) == streamed(list(text), mode, chat_format)


@given(text=replies, chat_format=formats)
def test_a_reply_without_calls_loses_nothing(text, chat_format):
    reply = parse_reply(text, "direct", chat_format)
    if not reply.tool_calls:
        assert reply.content == text


def test_a_call_streams_its_name_and_then_its_arguments():
    parser = ReplyParser("direct", V3, call_id="id-{}".format)
    assert parser.feed(V3_HEAD + "count\n```js") == Delta()
    (named,) = parser.feed("on\n").tool_calls
    assert (named.index, named.id, named.name, named.arguments) == (0, "id-0", "count", "")
    assert [call.arguments for call in parser.feed('{"sea"').tool_calls] == ['{"sea"']
    assert [call.arguments for call in parser.feed(": 1}\n``").tool_calls] == [": 1}"]
    assert parser.feed(f"`{CALL_END}{CALLS_END}") == parser.finish() == Delta()


def streamed(pieces, mode, chat_format):
    parser = ReplyParser(mode, chat_format)
    deltas = [*map(parser.feed, pieces), parser.finish()]
    return sum(deltas, Delta())


@pytest.mark.parametrize(
    ("text", "chat_format", "reply"),
    [
        ("Five.", V3, Reply(None, "Five.", True)),
        ("Five.", R1, Reply(None, "Five.", True)),
        ("Five.", V3_1, Reply(None, "Five.", True)),
        (f"{END_THINK}Five.", V3_1, Reply(None, "Five.", True)),
        (f"{THINK}2 + 3{END_THINK}Five.", V3_1, Reply("2 + 3", "Five.", True)),
        (f"{THINK}\n2 + 3\n{END_THINK}\n\nFive.", R1, Reply("2 + 3", "Five.", True)),
        (f"{CALLS_BEGIN}{V3_1_CALL}{CALLS_END}", V3_1, Reply(None, "", True, (CALL,))),
    ],
)
def test_a_reply_to_results_is_whole_whether_it_opens_thinking_or_nothing(text, chat_format, reply):
    assert parse_after_results(text, chat_format) == reply

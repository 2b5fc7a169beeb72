"""Log-probabilities as OpenAI's and DeepSeek's clients read them: each sampled token once, the reasoning's apart."""

import openai
import pytest

from gorae.client import ChatClient, TokenLogprob, whole_reply
from gorae.text import EOS

ASKED = {"model": "whale", "messages": [{"role": "user", "content": "3에서 5를 더하면?"}], "logprobs": True}
REPLY = "<think>\n3에서 5를 더하면 8.\n</think>\n\n답: 8鲸"


def text_of(entries) -> str:
    return b"".join(bytes(entry.bytes or []) for entry in entries).decode()


@pytest.fixture
def url(start, script) -> str:
    return start(script(REPLY))


def test_the_official_client_gets_every_token_with_its_bytes_reasoning_and_answer_apart(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any") as client:
        reply = client.chat.completions.create(**ASKED, top_logprobs=3)
    listed, usage = reply.choices[0].logprobs, reply.usage
    assert len(listed.reasoning_content) == usage.completion_tokens_details.reasoning_tokens
    assert len(listed.content) + len(listed.reasoning_content) == usage.completion_tokens
    assert text_of(listed.content) == "\n\n답: 8鲸"
    thinking = [entry["token"] for entry in listed.reasoning_content]
    assert (thinking[0], thinking[-1], listed.content[-1].token) == ("<think>", "</think>", EOS)
    assert [listed.content[-1].bytes, listed.reasoning_content[0]["bytes"]] == [None, None]
    in_order = [entry["logprob"] for entry in listed.reasoning_content] + [entry.logprob for entry in listed.content]
    assert in_order == [-0.5 - place for place in range(usage.completion_tokens)]
    assert any(entry.token == "�" for entry in listed.content), "a byte of a character that has no token"
    for entry in listed.content:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].token == entry.token
        assert entry.top_logprobs[1].logprob == -9999.0, "JSON has no infinity"


def test_a_stream_carries_the_same_list_in_pieces(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any") as client:
        whole = client.chat.completions.create(**ASKED, top_logprobs=2).choices[0].logprobs
        chunks = list(client.chat.completions.create(**ASKED, top_logprobs=2, stream=True))
    pieces = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
    assert len(pieces) > 5
    assert [entry for piece in pieces for entry in piece.content or []] == whole.content
    assert [entry for piece in pieces for entry in piece.reasoning_content or []] == whole.reasoning_content


def test_nobody_gets_a_list_who_did_not_ask(url):
    asked = {**ASKED, "logprobs": False}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any") as client:
        assert client.chat.completions.create(**asked).choices[0].logprobs is None
        assert not any(chunk.choices[0].logprobs for chunk in client.chat.completions.create(**asked, stream=True))
        bare = client.chat.completions.create(**ASKED).choices[0].logprobs
    assert [entry.top_logprobs for entry in bare.content] == [[]] * len(bare.content)


def test_our_client_keeps_them_whole_and_streamed(url):
    with ChatClient(f"{url}/v1") as client:
        reply = client.complete(ASKED["messages"], logprobs=True, top_logprobs=2)
        streamed = whole_reply(client.stream(ASKED["messages"], logprobs=True, top_logprobs=2))
    assert (streamed.logprobs, streamed.reasoning_logprobs) == (reply.logprobs, reply.reasoning_logprobs)
    assert b"".join(one.data or b"" for one in reply.logprobs).decode() == "\n\n답: 8鲸"
    first = reply.reasoning_logprobs[0]
    assert first.top == (TokenLogprob("<think>", -0.5), first.top[1])
    assert first.top[1].logprob == -9999.0

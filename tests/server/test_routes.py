import json
import threading

import httpx
import openai
import pytest
from scripted import running, wait_until
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from gorae.engine import ShortageError
from gorae.server import create_api

QUESTION = [{"role": "user", "content": "3에서 5를 더하면?"}]
ASKED = {"model": "whale", "messages": QUESTION}


def ask(url: str, **fields) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json=ASKED | fields)


def openai_client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)


def test_the_official_client_gets_reasoning_answer_and_usage_apart(url, tokenizer):
    with openai_client(url) as client:
        reply = client.chat.completions.create(**ASKED)
    message = reply.choices[0].message
    assert (message.role, message.content, message.reasoning_content) == ("assistant", "답: 8", "3에서 5를 더하면 8.")
    assert reply.choices[0].finish_reason == "stop"
    num_thinking = len(tokenizer.encode("<think>\n3에서 5를 더하면 8.\n</think>", parse_special=True))
    assert reply.usage.completion_tokens_details.reasoning_tokens == num_thinking
    assert reply.usage.completion_tokens == num_thinking + len(tokenizer.encode("\n\n답: 8")) + 1
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.prompt_cache_hit_tokens == 3  # as the scripted engine says
    assert reply.usage.prompt_cache_miss_tokens == reply.usage.prompt_tokens - 3


def test_the_official_client_streams_the_same_reply(url):
    with openai_client(url) as client:
        whole = client.chat.completions.create(**ASKED)
        chunks = list(client.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert "".join(delta.reasoning_content or "" for delta in deltas) == whole.choices[0].message.reasoning_content
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_official_client_lists_and_finds_the_model(url):
    with openai_client(url) as client:
        assert [model.id for model in client.models.list()] == ["whale"]
        assert client.models.retrieve("whale").owned_by == "gorae"
        with pytest.raises(openai.NotFoundError, match='"shark" is not served here; use "whale"'):
            client.models.retrieve("shark")


def test_the_official_client_raises_its_own_errors(url):
    with openai_client(url) as client:
        with pytest.raises(openai.BadRequestError, match="max_tokens is 0") as refusal:
            client.chat.completions.create(**ASKED, max_tokens=0)
        assert refusal.value.param == "max_tokens"
        with pytest.raises(openai.NotFoundError) as refusal:
            client.chat.completions.create(model="shark", messages=QUESTION)
        assert refusal.value.code == "model_not_found"


def test_a_stream_is_made_of_data_lines_and_ends_with_done(url):
    response = ask(url, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    first = json.loads(events[0].removeprefix("data: "))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "reasoning_content": None}
    assert "usage" not in first


@pytest.mark.parametrize(
    ("thinking", "ending", "reply", "reasoning"),
    [
        ({}, "<｜Assistant｜>", "</think>8", None),
        ({"thinking": {"type": "enabled"}}, "<｜Assistant｜><think>\n", "3+5\n</think>\n\n8", "3+5"),
        ({"thinking": {"type": "disabled"}}, "<｜Assistant｜></think>", "8", None),
    ],
)
def test_the_thinking_toggle_chooses_what_the_prompt_ends_with(
    start, script, tokenizer, thinking, ending, reply, reasoning
):
    engine = script(reply)
    answer = ask(start(engine), **thinking).json()
    expected = tokenizer.encode(ending, parse_special=True)
    assert engine.prompts[0][-len(expected) :] == expected
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "8", "reasoning_content": reasoning}
    num_reasoning = len(tokenizer.encode("3+5\n</think>", parse_special=True)) if reasoning else 0
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": num_reasoning}


def test_sampling_fields_reach_the_engine(start, script):
    engine = script()
    ask(start(engine), temperature=0, top_p=0.5, seed=7, max_completion_tokens=3)
    params = engine.params[0]
    assert (params.temperature, params.top_p, params.seed, params.max_tokens) == (0, 0.5, 7, 3)


def test_a_reply_may_fill_the_context_and_no_more(start, script):
    engine = script()
    url = start(engine)
    ask(url)
    ask(url, max_tokens=10_000)
    assert {params.max_tokens for params in engine.params} == {200 - len(engine.prompts[0])}


def test_a_reply_cut_at_max_tokens_says_so(url):
    choice = ask(url, max_tokens=4).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == ""


def test_stop_strings_end_the_answer_but_not_the_reasoning(start, script):
    engine = script("<think>\nyes no yes\n</think>\n\nyes no yes")
    choice = ask(start(engine), stop="no").json()["choices"][0]
    assert choice["message"]["reasoning_content"] == "yes no yes"
    assert choice["message"]["content"] == "yes "
    assert choice["finish_reason"] == "stop"
    wait_until(lambda: not engine.has_work)


def test_a_developer_counts_as_the_system_and_parts_are_joined(start, script, tokenizer):
    engine = script()
    url = start(engine)
    ask(url, messages=[{"role": "system", "content": "yes"}, {"role": "user", "content": "3 5"}])
    parts = [{"type": "text", "text": "3 "}, {"type": "text", "text": "5"}]
    ask(url, messages=[{"role": "developer", "content": "yes"}, {"role": "user", "content": parts}])
    assert engine.prompts[0] == engine.prompts[1]


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([*QUESTION, {"role": "assistant", "content": "8"}], "last message has role assistant"),
        ([*QUESTION, {"role": "system", "content": "yes"}, *QUESTION], "message 1 has role system"),
    ],
)
def test_a_conversation_nobody_can_answer_is_refused(url, messages, sentence):
    response = ask(url, messages=messages)
    assert response.status_code == 400
    assert sentence in response.json()["error"]["message"]


def test_a_prompt_that_leaves_no_room_is_refused_with_its_length(start, script):
    engine = script()
    response = ask(start(engine), messages=[{"role": "user", "content": "x" * 500}])
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "this model holds 200, reply included" in error["message"]
    assert engine.prompts == []


def test_a_body_that_is_too_long_is_refused_unread(start, script):
    response = ask(start(script(), max_body_bytes=50))
    assert response.status_code == 413


def test_what_the_engine_refuses_is_a_bad_request(start, script, monkeypatch):
    engine = script()

    def refuse(prompt_ids, params):
        raise ValueError("the prompt has 13 tokens, an unlucky number; add a word")

    monkeypatch.setattr(engine, "add", refuse)
    response = ask(start(engine))
    assert response.status_code == 400
    assert "unlucky number" in response.json()["error"]["message"]


def test_unknown_routes_and_methods_are_refused_in_the_same_shape(url):
    missing = httpx.post(f"{url}/v1/embeddings", json={})
    assert missing.status_code == 404
    assert "POST /v1/chat/completions" in missing.json()["error"]["message"]
    assert httpx.get(f"{url}/v1/chat/completions").status_code == 405


def test_a_full_queue_answers_429_and_takes_requests_again_later(start, script):
    engine = script(open_for=0)
    url = start(engine, max_waiting=1)
    first = threading.Thread(target=ask, args=(url,))
    first.start()
    wait_until(lambda: len(engine.prompts) == 1)
    refused = ask(url)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    engine.open_for = None
    first.join()
    assert ask(url).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_cancels_its_request(start, script, stream):
    engine = script(open_for=3)
    url = start(engine)
    with httpx.Client() as client, pytest.raises(httpx.ReadTimeout):
        client.post(f"{url}/v1/chat/completions", json=ASKED | {"stream": stream}, timeout=0.2)
    wait_until(lambda: engine.cancelled == [0])
    assert not engine.has_work


def test_a_silent_stream_is_kept_alive_with_comments(start, script):
    engine = script(open_for=2)
    url = start(engine, keep_alive_seconds=0.02)
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=ASKED | {"stream": True}) as response:
        lines = response.iter_lines()
        assert any(line == ": keep-alive" for line in lines)
        engine.open_for = None
        assert [line for line in lines if line][-1] == "data: [DONE]"


def test_an_engine_that_fails_answers_everyone_with_an_error(start, script, capfd):
    url = start(script(fails=True))
    broken_stream = ask(url, stream=True)
    assert "the weights caught fire" in broken_stream.text
    assert "[DONE]" not in broken_stream.text
    later = ask(url)
    assert later.status_code == 500
    assert later.json()["error"]["type"] == "server_error"
    assert "RuntimeError: the weights caught fire" in capfd.readouterr().err


def test_a_request_without_memory_gets_an_error_and_the_server_goes_on(start, script, monkeypatch):
    engine = script()

    def drop():
        monkeypatch.undo()
        engine.cancel(0)
        raise ShortageError("request 0 was dropped, as there is no memory for it even alone", 0)

    url = start(engine)
    monkeypatch.setattr(engine, "step", drop)
    dropped = ask(url)
    assert dropped.status_code == 500
    assert "no memory for it even alone" in dropped.json()["error"]["message"]
    assert ask(url).status_code == 200


def test_requests_at_the_same_time_do_not_mix(start, script):
    url = start(script())
    answers: list[str] = []

    def one() -> None:
        answers.append(ask(url).json()["choices"][0]["message"]["content"])

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["답: 8"] * 8


def test_a_page_handed_in_is_shown_at_the_root_beside_the_api(script, tokenizer):

    page = Starlette(routes=[Route("/", lambda _request: PlainTextResponse("a page"))])
    with running(create_api(script(), tokenizer, "whale", max_positions=200, page=page)) as url:
        assert httpx.get(url).text == "a page"
        assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == "whale"
        assert httpx.get(f"{url}/v1/nothing").json()["error"]["type"] == "invalid_request_error"

"""The model of the run behind HTTP, asked as strangers ask: OpenAI's client, our own, a browser."""

import json

import httpx
import openai
import pytest

from gorae.cli import main
from gorae.recipes.serving import ABOUT, example_questions
from gorae.tasks import draw_problems

QUESTION = next(draw_problems("a test")).prompt


@pytest.fixture
def client(served):
    with openai.OpenAI(base_url=f"{served}/v1", api_key="none", http_client=httpx.Client(trust_env=False)) as client:
        yield client


def ask(client, *, thinking: str, **options):
    return client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=[{"role": "user", "content": QUESTION}],
        extra_body={"thinking": {"type": thinking}},
        max_tokens=12,
        seed=3,
        **options,
    )


def test_a_reply_that_thinks_has_its_reasoning_apart_from_its_content(client):
    reply = ask(client, thinking="enabled")
    assert reply.choices[0].message.reasoning_content
    assert "<think>" not in (reply.choices[0].message.content or "")
    assert reply.usage.completion_tokens <= 12
    assert reply.usage.completion_tokens_details.reasoning_tokens > 0


def test_a_direct_reply_has_no_reasoning(client):
    reply = ask(client, thinking="disabled")
    assert not getattr(reply.choices[0].message, "reasoning_content", None)
    assert reply.choices[0].message.content
    assert reply.usage.completion_tokens_details.reasoning_tokens == 0


def test_streaming_gives_the_same_words_as_waiting(client):
    whole = ask(client, thinking="enabled").choices[0].message
    reasoning = content = ""
    for chunk in ask(client, thinking="enabled", stream=True):
        delta = chunk.choices[0].delta
        reasoning += getattr(delta, "reasoning_content", None) or ""
        content += delta.content or ""
    assert (reasoning, content) == (whole.reasoning_content or "", whole.content or "")


def test_a_question_asked_again_is_read_from_the_cache_and_answered_alike(client):
    first, again = (ask(client, thinking="enabled") for _ in range(2))
    assert again.choices[0].message == first.choices[0].message
    assert again.usage.prompt_cache_hit_tokens == (again.usage.prompt_tokens - 1) // 32 * 32 > 0
    assert again.usage.prompt_cache_miss_tokens == again.usage.prompt_tokens - again.usage.prompt_cache_hit_tokens


def test_the_model_is_named_after_its_run_and_stage(client):
    assert [model.id for model in client.models.list()] == ["gorae-run-rl"]


def test_the_page_offers_examples_in_three_languages_and_says_what_the_model_can_not_do(served):
    page = httpx.get(served, trust_env=False)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    for example in example_questions():
        assert json.dumps(example["text"]) in page.text
    for words in ABOUT.values():
        assert json.dumps(words) in page.text


def test_chat_asks_in_the_terminal(served, capsys):
    replies = []
    for _ in range(5):  # drawn from a model that learnt for four steps, of which one in many is empty
        assert main(["chat", QUESTION, "--url", f"{served}/v1", "--think"]) == 0
        replies.append(capsys.readouterr().out.strip())
    assert any(replies)


def test_chat_without_a_server_is_told_so_in_a_line(capsys):
    assert main(["chat", "hello", "--url", "http://127.0.0.1:9/v1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gorae: ")
    assert "127.0.0.1:9" in error
    assert error.count("\n") == 1

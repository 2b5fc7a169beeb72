import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from gorae.client import ChatClient, ClientError, Delta, ToolCall, whole_reply

QUESTION = [{"role": "user", "content": "1 + 1?"}]


@contextmanager
def answering(status: int, body: str):
    """A client of a server that gives every request the same answer and remembers what it was asked."""
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            asked.append((self.path, self.headers.get("authorization")))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST

        def log_message(self, format: str, *args) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        with ChatClient(f"http://127.0.0.1:{server.server_port}/v1", "secret") as client:
            yield client, asked
        server.shutdown()


def test_the_key_is_sent_and_the_path_follows_the_base_address():
    with answering(200, '{"data": [{"id": "m"}]}') as (client, asked):
        assert client.models() == ["m"]
    assert asked == [("/v1/models", "Bearer secret")]


def test_a_server_that_does_not_run_is_named():
    with (
        ChatClient("http://127.0.0.1:9/v1") as client,
        pytest.raises(ClientError, match=r"http://127.0.0.1:9/v1 cannot be reached .* that the server runs") as error,
    ):
        client.models()
    assert error.value.status is None


def test_an_address_without_a_scheme_is_an_error_at_once():
    with pytest.raises(ValueError, match="'localhost:8000' is not a web address"):
        ChatClient("localhost:8000")


@pytest.mark.parametrize("body", ['{"data": [{"name": "m"}]}', "[1]", '{"choices": []}', "null", '{"data": 3}'])
def test_json_that_is_no_answer_of_such_a_server_is_shown(body):
    with answering(200, body) as (client, _):
        with pytest.raises(ClientError, match="which is no answer of a chat API; check that it is its address"):
            client.models()
        with pytest.raises(ClientError, match="which is no answer of a chat API; check that it is its address"):
            client.complete(QUESTION, model="m")


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ('{"error": {"message": "slow down"}}', "slow down"),
        ('{"error": "slow down"}', "slow down"),
        ("<h1>Too many</h1>", "<h1>Too many</h1>"),
        ("", "Too Many Requests"),
    ],
)
def test_a_refusal_carries_status_and_message_and_is_not_retried(body, shown):
    with answering(429, body) as (client, asked):
        with pytest.raises(ClientError, match=f"answered 429: {shown}") as refusal:
            client.complete(QUESTION, model="m")
        assert refusal.value.status == 429
        assert len(asked) == 1


def test_a_page_in_place_of_an_api_is_recognized():
    with (
        answering(200, "<html>welcome</html>") as (client, _),
        pytest.raises(ClientError, match="did not answer in JSON but with '<html>welcome</html>'; check that it is"),
    ):
        client.complete(QUESTION, model="m")


def test_an_api_without_models_asks_for_a_name():
    with answering(200, '{"data": []}') as (client, _), pytest.raises(ClientError, match="lists no model"):
        client.complete(QUESTION)


def test_a_reply_without_reasoning_or_usage_is_read_from_any_server():
    with answering(200, '{"choices": [{"message": {"role": "assistant", "content": "2"}}]}') as (client, _):
        reply = client.complete(QUESTION, model="m")
    assert (reply.content, reply.reasoning, reply.finish_reason, reply.usage) == ("2", "", None, {})


def test_comments_in_a_stream_are_skipped_and_done_ends_it():
    stream = ': keep-alive\n\ndata:{"choices": [{"delta": {"content": "2"}}]}\n\ndata: [DONE]\n\ndata: x\n\n'
    with answering(200, stream) as (client, _):
        assert list(client.stream(QUESTION, model="m")) == [Delta(content="2")]


def test_a_stream_that_ends_without_done_is_an_error():
    with answering(200, 'data: {"choices": [{"delta": {"content": "2"}}]}\n\n') as (client, _):
        deltas = client.stream(QUESTION, model="m")
        assert next(deltas).content == "2"
        with pytest.raises(ClientError, match="broke off the reply before its end"):
            next(deltas)


def test_calls_of_servers_that_number_none_or_leave_out_arguments_are_read():
    call = '{"id": "a", "function": {"name": "f"}}'
    stream = f'data:{{"choices": [{{"delta": {{"tool_calls": [{call}]}}}}]}}\n\ndata: [DONE]\n\n'
    with answering(200, stream) as (client, _):
        assert whole_reply(client.stream(QUESTION, model="m")).tool_calls == (ToolCall("a", "f", ""),)
    with answering(200, f'{{"choices": [{{"message": {{"content": null, "tool_calls": [{call}]}}}}]}}') as (client, _):
        reply = client.complete(QUESTION, model="m")
    assert reply.tool_calls == (ToolCall("a", "f", ""),)
    assert reply.message["content"] is None


def test_a_call_without_a_function_is_no_answer():
    with (
        answering(200, '{"choices": [{"message": {"tool_calls": [{"id": "a"}]}}]}') as (client, _),
        pytest.raises(ClientError, match="which is no answer of a chat API"),
    ):
        client.complete(QUESTION, model="m")


def test_tokens_that_follow_a_prompt_come_with_ids_where_the_server_has_them():
    body = '{"choices": [{"token_ids": [7, 8], "logprobs": {"tokens": ["a", "b"], "token_logprobs": [null, -2.0]}}]}'
    with answering(200, body) as (client, asked):
        first, second = client.continue_tokens([1, 2], model="m", max_tokens=1, echo=True)
    assert asked[0][0] == "/v1/completions"
    assert (first.token, first.logprob, first.token_id) == ("a", 0.0, 7)
    assert (second.token, second.logprob, second.token_id) == ("b", -2.0, 8)
    with answering(200, body.replace("[7, 8]", "null").replace('"a"', '"token_id:5"')) as (client, _):
        assert [one.token_id for one in client.continue_tokens([1], model="m")] == [5, None]


@pytest.mark.parametrize(
    "logprobs", ["null", '{"tokens": ["a"], "token_logprobs": []}', '{"tokens": [3], "token_logprobs": [-1.0]}']
)
def test_completions_without_a_log_probability_a_token_are_no_answer(logprobs):
    with (
        answering(200, f'{{"choices": [{{"logprobs": {logprobs}}}]}}') as (client, _),
        pytest.raises(ClientError, match="which is no answer of a chat API"),
    ):
        client.continue_tokens([1], model="m")


def test_a_key_is_taken_from_the_environment_unless_one_is_given(monkeypatch):
    monkeypatch.setenv("GORAE_API_KEY", "secret")
    for given, sent in ((None, "Bearer secret"), ("mine", "Bearer mine")):
        with ChatClient("http://127.0.0.1:9/v1", given) as client:
            assert client._http.headers["authorization"] == sent
    monkeypatch.delenv("GORAE_API_KEY")
    with ChatClient("http://127.0.0.1:9/v1") as client:
        assert "authorization" not in client._http.headers

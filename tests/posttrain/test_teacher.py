"""Teachers: a model at hand is deterministic; an address is asked politely, and never twice for what it has said."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from scripted import ScriptedEngine, running

from gorae.checkpoint import Model
from gorae.client import ChatClient
from gorae.model import Network
from gorae.posttrain import ApiSettings, ApiTeacher, ModelTeacher
from gorae.posttrain import teacher as teacher_module
from gorae.server import Limits, create_api
from gorae.text import EOS, Message, Tokenizer

QUESTIONS = [[Message("user", f"{number} + 1?")] for number in range(4)]
USAGE = {"prompt_tokens": 5, "completion_tokens": 7}


def said(content: str, reasoning: str | None = None, finish: str = "stop") -> tuple[int, dict]:
    message = {"role": "assistant", "content": content, "reasoning_content": reasoning}
    return 200, {"choices": [{"message": message, "finish_reason": finish}], "usage": USAGE}


class Server:
    """Answers by a function of the question's text and how often it was asked; counts who is under way at once."""

    def __init__(self, answer: Callable[[str, int], tuple[int, dict]]) -> None:
        self.answer, self.asked, self.lock = answer, [], threading.Lock()
        self.bodies, self.keys, self.under_way, self.most = [], [], 0, 0

    @contextmanager
    def running(self) -> Iterator[str]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                text = body["messages"][-1]["content"]
                with server.lock:
                    server.asked.append(text)
                    server.bodies.append(body)
                    server.keys.append(self.headers.get("authorization"))
                    server.under_way += 1
                    server.most = max(server.most, server.under_way)
                    times = server.asked.count(text)
                status, answer = server.answer(text, times)
                with server.lock:
                    server.under_way -= 1
                self.reply(status, answer)

            def do_GET(self) -> None:
                self.reply(200, {"data": [{"id": "whale"}, {"id": "shark"}]})

            def reply(self, status: int, answer: dict) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, format: str, *args) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
            threading.Thread(target=http.serve_forever).start()
            try:
                yield f"http://127.0.0.1:{http.server_port}/v1"
            finally:
                http.shutdown()


@pytest.fixture(autouse=True)
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(teacher_module, "FIRST_PAUSE_SECONDS", 0.001)


@contextmanager
def teaching(answer: Callable[[str, int], tuple[int, dict]], **settings):
    """A teacher at a server, the server, and what was paid."""
    server, paid = Server(answer), []
    with server.running() as url, ChatClient(url, "secret") as client:
        wanted = ApiSettings(**{"parallel": 2} | settings)
        yield ApiTeacher(client, wanted, max_tokens=9, count=lambda *words: paid.append(words)), server, paid


def test_reasoning_and_content_come_back_as_traces_and_the_key_and_the_limit_are_sent(tmp_path):
    with teaching(lambda text, _: said(f"<{text}>", f"so {text}")) as (teacher, server, paid):
        groups = teacher.answer(QUESTIONS, num_samples=2, seed=0, journal=tmp_path / "answers.jsonl")
    assert [len(group) for group in groups] == [2] * 4
    first = groups[1][0]
    assert (first.reasoning, first.content, first.text) == (
        "so 1 + 1?",
        "<1 + 1?>",
        "<think>\nso 1 + 1?\n</think>\n\n<1 + 1?>",
    )
    assert first.messages == QUESTIONS[1]
    assert set(server.keys) == {"Bearer secret"}
    assert {(body["model"], body["max_tokens"]) for body in server.bodies} == {("whale", 9)}
    assert paid == [(12, None)] * 8


@pytest.mark.parametrize(
    ("answer", "reasoning", "content"),
    [
        (said("8"), None, "8"),
        (said("<think>\n5 + 3\n</think>\n\n8"), "5 + 3", "8"),
        (said("8", "5 + 3", finish="length"), "5 + 3", None),
        (said("", "5 + 3"), "5 + 3", None),
    ],
)
def test_thinking_that_a_server_left_in_the_content_is_found_and_a_reply_cut_off_has_no_content(
    tmp_path, answer, reasoning, content
):
    with teaching(lambda *_: answer) as (teacher, _, _):
        ((trace,),) = teacher.answer(QUESTIONS[:1], num_samples=1, seed=0, journal=tmp_path / "answers.jsonl")
    assert (trace.reasoning, trace.content) == (reasoning, content)


def test_no_more_are_under_way_than_is_said(tmp_path):
    together = threading.Barrier(3, timeout=10)

    def answer(text: str, _: int) -> tuple[int, dict]:
        together.wait()  # three come at once, or this breaks
        return said(text)

    with teaching(answer, parallel=3) as (teacher, server, _):
        teacher.answer(QUESTIONS[:3], num_samples=2, seed=0, journal=tmp_path / "answers.jsonl")
    assert server.most == 3


def test_what_failed_for_a_while_is_asked_again_and_counted(tmp_path):
    def answer(text: str, times: int) -> tuple[int, dict]:
        return said(text) if times > 2 else ((429, 503)[times - 1], {"error": {"message": "busy"}})

    with teaching(answer) as (teacher, server, _):
        groups = teacher.answer(QUESTIONS, num_samples=1, seed=0, journal=tmp_path / "answers.jsonl")
    assert [group[0].content for group in groups] == [question[0].content for question in QUESTIONS]
    assert teacher.num_errors == 8
    assert len(server.asked) == 12


def test_a_question_that_never_gets_an_answer_is_left_out_and_told(tmp_path, capsys):
    def answer(text: str, _: int) -> tuple[int, dict]:
        return {"0": (500, {"error": "broken"}), "1": (400, {"error": "too long"})}.get(text[0], said(text))

    with teaching(answer, attempts=3) as (teacher, server, paid):
        groups = teacher.answer(QUESTIONS, num_samples=1, seed=0, journal=tmp_path / "answers.jsonl")
    assert [len(group) for group in groups] == [0, 0, 1, 1]
    assert [server.asked.count(f"{number} + 1?") for number in range(4)] == [3, 1, 1, 1]
    assert teacher.num_errors == 4
    assert len(paid) == 2
    assert "2 of 4 replies did not come; the first: " in capsys.readouterr().err


def test_where_nothing_is_answered_the_first_error_is_raised(tmp_path):
    with (
        teaching(lambda *_: (500, {"error": "broken"}), attempts=2) as (teacher, _, _),
        pytest.raises(ValueError, match=r"not one of 4 replies came; the first error: .* answered 500: broken"),
    ):
        teacher.answer(QUESTIONS, num_samples=1, seed=0, journal=tmp_path / "answers.jsonl")


def test_a_refused_key_ends_the_run_at_once(tmp_path):
    with teaching(lambda *_: (401, {"error": "no such key"})) as (teacher, server, _):
        with pytest.raises(ValueError, match="answered 401: no such key"):
            teacher.answer(QUESTIONS * 9, num_samples=2, seed=0, journal=tmp_path / "answers.jsonl")
        assert len(server.asked) < 36


def test_after_a_kill_nothing_is_asked_again_that_was_answered(tmp_path):
    journal = tmp_path / "answers.jsonl"
    with teaching(lambda text, _: (401, {"error": "gone"}) if text[0] == "3" else said(text), parallel=1) as (
        one,
        _,
        paid,
    ):
        with pytest.raises(ValueError, match="401"):
            one.answer(QUESTIONS, num_samples=1, seed=0, journal=journal)
        assert len(paid) == 3
    with journal.open("ab") as file:
        file.write(b'{"question": 3, "sam')  # as a kill leaves it
    with teaching(lambda text, _: said(f"later {text}")) as (other, server, paid):
        groups = other.answer(QUESTIONS, num_samples=1, seed=0, journal=journal)
    assert server.asked == ["3 + 1?"]
    assert len(paid) == 1
    assert [group[0].content for group in groups] == ["0 + 1?", "1 + 1?", "2 + 1?", "later 3 + 1?"]
    assert len(journal.read_text().splitlines()) == 4


def test_a_journal_of_other_questions_answers_nothing(tmp_path):
    journal = tmp_path / "answers.jsonl"
    with teaching(lambda text, _: said(text)) as (teacher, server, _):
        teacher.answer(QUESTIONS[:1], num_samples=1, seed=0, journal=journal)
        teacher.answer(QUESTIONS[1:2], num_samples=1, seed=0, journal=journal)
    assert server.asked == ["0 + 1?", "1 + 1?"]


def test_a_known_price_is_paid_by_the_tokens_of_prompts_and_replies(tmp_path):
    with teaching(lambda text, _: said(text), prompt_usd=1.0, reply_usd=3.0, model="shark") as (teacher, server, paid):
        teacher.answer(QUESTIONS[:1], num_samples=1, seed=0, journal=tmp_path / "answers.jsonl")
    assert paid == [(12, pytest.approx(26e-6))]
    assert server.bodies[0]["model"] == "shark"


def test_our_own_server_teaches_with_its_thinking(tmp_path):
    tokenizer = Tokenizer.train(["3에서 5를 더하면 8. 답: 8\n"] * 20, vocab_size=300)
    engine = ScriptedEngine(tokenizer.encode(f"<think>\n3 + 5\n</think>\n\n답: 8{EOS}", parse_special=True))
    api = create_api(engine, tokenizer, "whale", max_positions=200, limits=Limits())
    counted = []
    with running(api) as url, ChatClient(f"{url}/v1") as client:
        teacher = ApiTeacher(client, ApiSettings(), max_tokens=50, count=lambda *words: counted.append(words))
        ((trace,),) = teacher.answer(QUESTIONS[:1], num_samples=1, seed=0, journal=tmp_path / "answers.jsonl")
    assert (trace.reasoning, trace.content) == ("3 + 5", "답: 8")
    assert counted[0][0] > 10


def test_a_model_at_hand_gives_the_same_replies_again_with_the_tokens_it_sampled(tmp_path, config):
    tokenizer = Tokenizer.train(["3에서 5를 더하면 8. 답: 8\n"] * 20, vocab_size=300)
    config = replace(config, vocab_size=tokenizer.vocab_size)
    counted = []
    model = Model(Network(config, seed=1).eval(), config, tokenizer)
    teacher = ModelTeacher(model, 6, lambda **words: counted.append(words))
    ask = {"num_samples": 3, "seed": 4, "journal": tmp_path / "none"}
    groups = teacher.answer(QUESTIONS, **ask)
    assert groups == teacher.answer(QUESTIONS, **ask)
    assert len({one.text for group in groups for one in group}) > 6
    for question, group in zip(QUESTIONS, groups, strict=True):
        for one in group:
            assert list(one.prompt_ids) == tokenizer.encode_chat(question)
            assert one.text == tokenizer.decode(one.reply_ids)
    assert counted
    assert not (tmp_path / "none").exists()


def test_a_server_without_a_model_and_settings_that_can_not_be_are_refused():
    with ChatClient("http://127.0.0.1:9/v1") as client, pytest.raises(ValueError, match="names no model"):
        ApiTeacher(client, ApiSettings(), max_tokens=1, count=lambda *_: None)
    with pytest.raises(ValueError, match="parallel=0 must be at least 1"):
        ApiSettings(parallel=0)

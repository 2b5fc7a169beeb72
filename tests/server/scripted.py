"""A tiny engine that replays token ids instead of sampling them, and a server thread to put it behind."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from gorae.engine import SamplingParams


@dataclass(frozen=True)
class ScriptedEvent:
    request_id: int
    token_id: int
    finish_reason: str | None
    num_cached: int = 3
    logprob: float = 0.0
    top_logprobs: dict[int, float] | None = None


class ScriptedEngine:
    """Answers every request with `reply_ids`, a token a step, and pauses each after `open_for` tokens."""

    def __init__(self, reply_ids: list[int], *, open_for: int | None = None, fails: bool = False) -> None:
        self.reply_ids = reply_ids
        self.open_for = open_for
        self.fails = fails
        self.prompts: list[list[int]] = []
        self.params: list[SamplingParams] = []
        self.cancelled: list[int] = []
        self._progress: dict[int, int] = {}

    def add(self, prompt_ids: list[int], params: SamplingParams) -> int:
        self.prompts.append(prompt_ids)
        self.params.append(params)
        self._progress[len(self.prompts) - 1] = 0
        return len(self.prompts) - 1

    def cancel(self, request_id: int) -> None:
        self.cancelled.append(request_id)
        self._progress.pop(request_id, None)

    @property
    def has_work(self) -> bool:
        return bool(self._progress)

    def step(self) -> list[ScriptedEvent]:
        events = [self._next(request_id) for request_id, done in self._progress.items() if self._may_pass(done)]
        for event in events:
            self._progress[event.request_id] += 1
            if event.finish_reason:
                del self._progress[event.request_id]
        if not events:
            time.sleep(0.002)
        if self.fails and events:
            raise RuntimeError("the weights caught fire")
        return events

    def _may_pass(self, done: int) -> bool:
        return self.open_for is None or done < self.open_for

    def _next(self, request_id: int) -> ScriptedEvent:
        done = self._progress[request_id]
        is_last = done + 1 == len(self.reply_ids)
        is_cut = done + 1 == self.params[request_id].max_tokens
        reason = "stop" if is_last else "length" if is_cut else None
        logprob, num_top = -0.5 - done, self.params[request_id].logprobs or 0
        top_logprobs = {self.reply_ids[done]: logprob, **{n: float("-inf") for n in range(299 + 2 - num_top, 300)}}
        return ScriptedEvent(
            request_id, self.reply_ids[done], reason, logprob=logprob, top_logprobs=top_logprobs if num_top else None
        )


@contextmanager
def running(app) -> Iterator[str]:
    """Serve `app` on a free port from a thread and yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        wait_until(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def wait_until(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("it never came true")

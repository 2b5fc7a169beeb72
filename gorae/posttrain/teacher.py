"""Teachers that answer questions: a model at hand, or one at an address that speaks OpenAI's format.

An address is asked for several replies at a time. Each is put down in a journal when it comes, so that nothing is asked
twice after a kill; what failed is asked again where that can help, and counted. Knows no task: who asks also grades.
"""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gorae.client import ChatClient, ClientError, Reply
from gorae.engine import Engine, Output, SamplingParams, ServableModel
from gorae.observe import log
from gorae.posttrain.rollout import sample_groups
from gorae.posttrain.trace import Trace
from gorae.text import END_THINK, GORAE, THINK, Message, Mode, parse_reply

HOPELESS = (401, 402, 403, 404, 405)  # statuses of a refusal that every other question would meet too
OF_ONE_QUESTION = (400, 413, 422)  # and of one that this question would meet again
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0

Question = Sequence[Message]


class Teacher(Protocol):
    def answer(self, questions: Sequence[Question], *, num_samples: int, seed: int, journal: Path) -> list[list[Trace]]:
        """Replies to each question: `num_samples` of them, or fewer where an address failed."""
        ...


@dataclass(frozen=True)
class ModelTeacher(Teacher):
    """A model at hand, asked by the engine; the same seed gives the same replies, so it needs no journal."""

    model: ServableModel
    max_tokens: int
    count: Callable[..., None]

    def answer(self, questions: Sequence[Question], *, num_samples: int, seed: int, journal: Path) -> list[list[Trace]]:
        del journal
        tokenizer = self.model.tokenizer
        assert tokenizer is not None, "a teacher is asked, and has a tokenizer"
        engine = Engine(self.model, prefix_cache=False, count=self.count)
        prompts = [tokenizer.encode_prompt(question) for question in questions]
        params = SamplingParams(max_tokens=self.max_tokens)
        ids = [prompt.ids for prompt in prompts]
        groups = sample_groups(engine, ids, num_samples=num_samples, params=params, seed=seed)

        def read(question: Question, mode: Mode, output: Output) -> Trace:
            found = parse_reply(output.text, mode, tokenizer.chat_format)
            content = found.content if found.complete and output.finish_reason == "stop" else None
            said = (plain(question), output.text, found.reasoning, content)
            return Trace(*said, tuple(output.prompt_token_ids), tuple(output.token_ids))

        triples = zip(questions, prompts, groups, strict=True)
        return [[read(question, prompt.mode, one) for one in group] for question, prompt, group in triples]


@dataclass(frozen=True)
class ApiSettings:
    """model: its name at the address; none takes the first there. parallel: questions under way at a time.

    attempts: how often a question is asked that failed. prompt_usd, reply_usd: what a million tokens cost, if known.
    """

    model: str | None = None
    parallel: int = 8
    attempts: int = 6
    prompt_usd: float | None = None
    reply_usd: float | None = None

    def __post_init__(self) -> None:
        for name in ("parallel", "attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")

    def price(self, prompt_tokens: int, reply_tokens: int) -> float | None:
        """What a reply cost; None where the price is not known."""
        if self.prompt_usd is None or self.reply_usd is None:
            return None
        return (prompt_tokens * self.prompt_usd + reply_tokens * self.reply_usd) / 1e6


class ApiTeacher(Teacher):
    """A model at an address. Its sampling is the server's: no temperature and no seed are asked for.

    `count(tokens, usd)` is told of every reply; `num_errors` are the attempts that failed. A pause after a failure is
    twice the last one. Raises ValueError if a question can not be asked at all.
    """

    def __init__(
        self,
        client: ChatClient,
        wanted: ApiSettings,
        *,
        max_tokens: int,
        count: Callable[[int, float | None], None],
    ) -> None:
        self.client, self.wanted, self.count = client, wanted, count
        self.num_errors = 0
        try:
            self.options = {"model": wanted.model or client.models()[0], "max_tokens": max_tokens}
        except (ClientError, IndexError) as error:
            raise ValueError(f"{client.base_url} names no model ({error}); give its name") from error

    def answer(self, questions: Sequence[Question], *, num_samples: int, seed: int, journal: Path) -> list[list[Trace]]:
        """Raises ValueError if no question is answered at all."""
        del seed
        places = [(number, sample) for number in range(len(questions)) for sample in range(num_samples)]
        lines = [line for line in read_journal(journal) if line["question"] < len(questions)]
        said = {
            (line["question"], line["sample"]): Trace(**line["trace"])
            for line in lines
            if line["trace"]["conversation"] == plain(questions[line["question"]])
        }
        failed: list[ClientError] = []
        missing = [place for place in places if place not in said]
        with journal.open("a", encoding="utf-8") as file, ThreadPoolExecutor(self.wanted.parallel) as pool:
            asked = {pool.submit(self.ask, questions[number]): (number, sample) for number, sample in missing}
            try:
                for done in as_completed(asked):
                    (number, sample), (reply, errors) = asked[done], done.result()
                    self.num_errors += len(errors)
                    if reply is None:
                        failed.append(errors[-1])
                        continue
                    trace = said[number, sample] = read_trace(questions[number], reply)
                    line = {"question": number, "sample": sample, "trace": trace.as_dict()}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    file.flush()
                    self.pay(reply)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        if failed:
            log(f"{len(failed)} of {len(places)} replies did not come; the first: {failed[0]}")
        if not said:
            raise ValueError(f"not one of {len(places)} replies came; the first error: {failed[0]}")
        return [[said[n, s] for s in range(num_samples) if (n, s) in said] for n in range(len(questions))]

    def ask(self, question: Question) -> tuple[Reply | None, list[ClientError]]:
        """A reply, None if it never came, and the errors on the way. Raises ValueError where asking is hopeless."""
        errors: list[ClientError] = []
        for attempt in range(self.wanted.attempts):
            try:
                return self.client.complete(plain(question), **self.options), errors
            except ClientError as error:
                if error.status in HOPELESS:
                    raise ValueError(str(error)) from error
                errors.append(error)
                if error.status in OF_ONE_QUESTION:
                    break
                if attempt + 1 < self.wanted.attempts:
                    time.sleep(min(FIRST_PAUSE_SECONDS * 2**attempt, LONGEST_PAUSE_SECONDS))
        return None, errors

    def pay(self, reply: Reply) -> None:
        used = [int(reply.usage.get(f"{part}_tokens") or 0) for part in ("prompt", "completion")]
        self.count(sum(used), self.wanted.price(*used))


def plain(question: Question) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in question]


def read_trace(question: Question, reply: Reply) -> Trace:
    """A reply as a trace; thinking that a server left in the content is taken out of it."""
    reasoning, content = reply.reasoning or None, reply.content
    if reasoning is None and content.lstrip().startswith(THINK):
        found = parse_reply(content.lstrip(), "free", GORAE)
        reasoning, content = (found.reasoning or "").strip("\n"), found.content
    has_ended = reply.finish_reason == "stop" and bool(content.strip())
    text = content if reasoning is None else f"{THINK}\n{reasoning}\n{END_THINK}\n\n{content}"
    return Trace(plain(question), text, reasoning, content.strip() if has_ended else None)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal; what a kill left of another is cut off."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        path.write_bytes(whole)
    return [json.loads(line) for line in whole.decode().split("\n")[:-1]]  # a text may hold other ends of lines

"""Episodes: the model and an environment take turns, until the model answers or a limit is reached.

Token in, token out: the prompt of each turn is the ids so far, exactly as they were sampled, and behind them the ids of
what the environment wrote. Nothing sampled is decoded and encoded again. Calls are read from the text of a reply.
Nouns: an Episode; a World, the tools and who answers. Knows no process and no reward.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from gorae.engine import Output, Policy, SamplingParams
from gorae.posttrain.sampler import Sampler
from gorae.posttrain.seeds import seed_of
from gorae.tasks import Answer
from gorae.text import Message, Mode, Tokenizer, Tool, parse_after_results, parse_reply


class World(NamedTuple):
    """What episodes are played in.

    `act(asked)` takes the numbers of episodes and their turns so far, and answers what each one's environment says
    next: in the beginning, where there are no turns, what is to be added to the prompt; then a text for every call of
    the last turn.
    """

    tools: Sequence[Tool]
    act: Callable[[Sequence[tuple[int, Sequence[Message]]]], Sequence[Answer]]


@dataclass(frozen=True)
class Episode(Output):
    """An episode as one reply: `token_ids` is all behind the prompt, `logprobs` are of those that were sampled.

    finish_reason: "stop", an answer; "length" or "turns", cut off; "error", its environment failed: `error` says how.
    turns: what the model and its tools wrote, in order.
    content: what the answer says, None where it has no proper end; `text` is that of the last reply, whole.
    """

    turns: Sequence[Message] = ()
    is_sampled: Sequence[bool] = ()
    content: str | None = None
    error: str | None = None


def sample_episodes(
    sampler: Sampler,
    conversations: Sequence[Sequence[Message]],
    world: World,
    *,
    num_samples: int,
    max_turns: int,
    params: SamplingParams,
    seed: int,
    first: int = 0,
) -> list[list[Episode]]:
    """`num_samples` episodes of each conversation, all of them played at once, a turn after the other.

    `params.max_tokens` are those that the model may sample in an episode, `max_turns` how many replies they may be.
    Each turn is drawn from its own seed, the first as in `sample_groups`; `first` is the number of the first
    conversation, and first * num_samples that of its first episode. Raises ValueError for a model that can not call.
    """
    tokenizer = sampler.tokenizer
    if tokenizer is None or (world.tools and tokenizer.chat_format.tools is None):
        has = "no tokenizer" if tokenizer is None else f"the format {tokenizer.chat_format.name}, without tool calls"
        raise ValueError(
            f"the task has tools to call and the model has {has}; take a model with a chat template of DeepSeek's"
        )
    repeated = [conversation for conversation in conversations for _ in range(num_samples)]
    courses = [_Course(number) for number in range(first * num_samples, first * num_samples + len(repeated))]
    begins = world.act([(course.number, ()) for course in courses])
    for course, conversation, begun in zip(courses, repeated, begins, strict=True):
        course.begin(tokenizer, conversation, world.tools, begun)
    for turn in range(max_turns):
        speaking = [course for course in courses if course.finish_reason is None]
        if not speaking:
            break
        prompts = [course.prompt_ids + course.token_ids for course in speaking]
        left = [params.max_tokens - len(course.logprobs) for course in speaking]
        seeds = [seed_of(seed, course.number, turn) for course in speaking]
        each = [replace(params, max_tokens=most, seed=own) for most, own in zip(left, seeds, strict=True)]
        for course, output in zip(speaking, sampler.generate(prompts, each), strict=True):
            course.say(tokenizer, output)
        calling = [course for course in speaking if course.finish_reason is None]
        if turn + 1 == max_turns:
            for course in calling:
                course.finish_reason = "turns"
        elif calling:
            answers = world.act([(course.number, course.turns) for course in calling])
            for course, answer in zip(calling, answers, strict=True):
                course.hear(tokenizer, answer, max_tokens=params.max_tokens, max_positions=sampler.max_positions)
    episodes = [course.episode() for course in courses]
    return [episodes[start : start + num_samples] for start in range(0, len(episodes), num_samples)]


@dataclass
class _Course:
    """An episode while it is played; it waits for the model unless it has a finish reason."""

    number: int
    prompt_ids: list[int] = field(default_factory=list)
    mode: Mode = "free"
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    policy: list[Policy] = field(default_factory=list)
    is_sampled: list[bool] = field(default_factory=list)
    turns: list[Message] = field(default_factory=list)
    last: Output | None = None
    finish_reason: str | None = None
    content: str | None = None
    error: str | None = None

    def begin(
        self, tokenizer: Tokenizer, conversation: Sequence[Message], tools: Sequence[Tool], begun: Answer
    ) -> None:
        """Ask, with what the environment says in the beginning behind the last message."""
        if self.has_failed(begun):
            return
        *before, asked = conversation
        messages = [*before, replace(asked, content=asked.content + "".join(begun.texts))]
        prompt = tokenizer.encode_prompt(messages, tools=tools)
        self.prompt_ids, self.mode = prompt.ids, prompt.mode

    def say(self, tokenizer: Tokenizer, output: Output) -> None:
        """The model's reply: calls, an answer, or cut off."""
        if self.turns:
            reply = parse_after_results(output.text, tokenizer.chat_format)
        else:
            reply = parse_reply(output.text, self.mode, tokenizer.chat_format)
        has_ended = output.finish_reason == "stop"
        calls = reply.tool_calls if has_ended else ()
        self.token_ids += output.token_ids
        self.logprobs += output.logprobs
        self.policy += output.policy or ()
        self.is_sampled += [True] * len(output.token_ids)
        self.turns.append(Message("assistant", reply.content, reply.reasoning, calls))
        self.last = output
        if not calls:
            self.finish_reason = output.finish_reason
            self.content = reply.content if has_ended and reply.complete else None

    def hear(self, tokenizer: Tokenizer, answer: Answer, *, max_tokens: int, max_positions: int) -> None:
        """The environment's results of the last turn's calls."""
        if self.has_failed(answer):
            return
        calls = self.turns[-1].tool_calls
        self.turns += [
            Message("tool", text, tool_call_id=call.id) for call, text in zip(calls, answer.texts, strict=True)
        ]
        ids = tokenizer.encode_results(answer.texts)
        num_read = len(self.prompt_ids) + len(self.token_ids) + len(ids)
        if len(self.logprobs) >= max_tokens or num_read >= max_positions:
            self.finish_reason = "length"
        else:
            self.token_ids += ids
            self.is_sampled += [False] * len(ids)

    def has_failed(self, answer: Answer) -> bool:
        if answer.error is not None:
            self.finish_reason, self.error = "error", answer.error
        return answer.error is not None

    def episode(self) -> Episode:
        assert self.finish_reason is not None, "an episode is over before it is told"
        return Episode(
            token_ids=self.token_ids,
            text=self.last.text if self.last else "",
            logprobs=self.logprobs,
            finish_reason=self.finish_reason,
            prompt_token_ids=self.prompt_ids,
            routings=self.last.routings if self.last else None,
            policy=self.policy or None,
            turns=self.turns,
            is_sampled=self.is_sampled,
            content=self.content,
            error=self.error,
        )

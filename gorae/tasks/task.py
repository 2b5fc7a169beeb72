"""A task: rows to ask about, and functions that reward replies, in the form in which users of TRL have them.

Nouns: a Row, a prompt and whatever columns its rewards want; a Reply, what a model wrote; a Task, which has both rows
and functions, and may have environments. All of these are strangers: only worker.py calls them.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any

from gorae.tasks.environment import Scene, awaited, taken
from gorae.text import Message, Tool

Row = Mapping[str, Any]
RewardFunction = Callable[..., Any]


@dataclass(frozen=True)
class Reply:
    """`text` is all of it, thinking included; `content` what follows the thinking, None where it has no proper end.

    scene: the episode that it ends, where there is an environment. error: why that could not be played to its end.
    """

    text: str
    content: str | None
    token_ids: Sequence[int] = ()
    scene: Scene | None = None
    error: str | None = None


@dataclass(frozen=True)
class Task:
    """`rows` is a list, or a function of a seed; `oracle` writes the right content of a reply to a row.

    Where there is an environment, an oracle may also return a list: calls to make, then that content.
    """

    name: str
    rows: Sequence[Row] | Callable[[int], Iterable[Row]]
    rewards: Mapping[str, RewardFunction]
    weights: Mapping[str, float]
    oracle: Callable[[Row], Any]
    environment_factory: Callable[[], Any] | None = None
    tools: Sequence[Tool] = ()

    def draw(self, seed: int) -> Iterator[Row]:
        """Rows without end from a seed; those of a list come in an order drawn anew for each time through it."""
        if callable(self.rows):
            yield from map(self._checked, self.rows(seed))
            raise ValueError(f"rows({seed}) of {self.name} came to an end; yield without end, or give a list")
        for epoch in count():
            yield from map(self._checked, Random(f"{seed}/{epoch}").sample(self.rows, len(self.rows)))

    def reward(
        self, rows: Sequence[Row], replies: Sequence[Reply], environments: Sequence[Any] = ()
    ) -> list[dict[str, float | None]]:
        """What each function gives each reply, None where it does not apply.

        A function gets `prompts`, `completions`, `completion_ids`, `contents`, `environments` where there are any, and
        every column by name, a list each, or those of them that its signature names. Raises whatever it raises, and
        ValueError for what is no list of numbers.
        """
        names = dict.fromkeys(name for row in rows for name in row if name != "prompt")
        offered = {name: [row.get(name) for row in rows] for name in names} | {
            "prompts": [row["prompt"] for row in rows],
            "completions": [_as_asked(row, reply) for row, reply in zip(rows, replies, strict=True)],
            "completion_ids": [list(reply.token_ids) for reply in replies],
            "contents": [reply.content for reply in replies],
        }
        if environments:
            offered["environments"] = environments
        found = {name: _call(name, function, offered, len(rows)) for name, function in self.rewards.items()}
        return [dict(zip(found, each, strict=True)) for each in zip(*found.values(), strict=True)]

    def total(self, given: Mapping[str, float | None]) -> float | None:
        """The weighted sum of what applies; None if nothing does."""
        parts = [self.weights[name] * reward for name, reward in given.items() if reward is not None]
        return sum(parts) if parts else None

    def _checked(self, row: Any) -> Row:
        if not isinstance(row, Mapping) or not isinstance(row.get("prompt"), str | list):
            raise ValueError(
                f"a row of {self.name} is {row!r:.200}; it must be a dictionary with a prompt, a text or messages"
            )
        return row


def identity_of(row: Row) -> str:
    """Names a row by what it asks, so that what is sealed for evaluation is recognised in training."""
    return json.dumps(row["prompt"], ensure_ascii=False, sort_keys=True)


def _as_asked(row: Row, reply: Reply) -> Any:
    """A completion as TRL hands it over: a text behind a text, messages behind messages and of an episode."""
    if reply.scene is not None:
        return [_as_dictionary(turn) for turn in reply.scene.turns]
    return reply.text if isinstance(row["prompt"], str) else [{"role": "assistant", "content": reply.text}]


def _as_dictionary(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        turn["reasoning_content"] = message.reasoning
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "type": "function",
                "id": call.id,
                "function": {
                    "name": call.name,
                    "arguments": json.loads(call.arguments) if call.is_sound else call.arguments,
                },
            }
            for call in message.tool_calls
        ]
    return turn


def _call(name: str, function: RewardFunction, offered: Mapping[str, Any], num_replies: int) -> list[float | None]:
    rewards = awaited(function(**taken(function, offered)))
    if not isinstance(rewards, Sequence) or len(rewards) != num_replies:
        raise ValueError(
            f"{name} returned {rewards!r:.200} for {num_replies} replies; return a list of as many numbers"
        )
    return [None if reward is None else _number(name, reward) for reward in rewards]


def _number(name: str, reward: Any) -> float:
    try:
        number = float(reward)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} returned {reward!r:.100} for a reply; return a finite number, or None")
    return number

"""A trace: what a teacher said to a question, as text, so that it can travel to a student with other tokens.

A student is taught it in its own words: prompt and reply are written by its chat template and encoded by its tokenizer.
Where both read the same tokens, the ids that were sampled can go along. Knows no teacher.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gorae.posttrain.sft import Example, example_of
from gorae.text import END_THINK, THINK, Message, Tokenizer


@dataclass(frozen=True)
class Trace:
    """`text` is all that was said; `content` is what follows the thinking, None where the reply had no proper end.

    prompt_ids, reply_ids: the teacher's tokens, empty where it told none.
    """

    conversation: Sequence[Mapping[str, str]]
    text: str
    reasoning: str | None
    content: str | None
    prompt_ids: Sequence[int] = ()
    reply_ids: Sequence[int] = ()

    @property
    def messages(self) -> list[Message]:
        return [Message(**message) for message in self.conversation]  # pyright: ignore[reportArgumentType]

    def as_dict(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def retold(trace: Trace, tokenizer: Tokenizer) -> Example:
    """The trace in a student's tokens. Raises ValueError for one without a proper end, which nobody should imitate.

    A student whose template always thinks thinks nothing where the teacher did not. Where its template knows of no
    thinking, that is written between the two tags, as part of the content.
    """
    if trace.content is None:
        raise ValueError(f"a reply without a proper end is no example: {trace.text[-80:]!r}")
    reply = Message("assistant", trace.content, trace.reasoning)
    if tokenizer.chat_format.thinks == "never" and trace.reasoning is not None:
        reply = Message("assistant", f"{THINK}\n{trace.reasoning}\n{END_THINK}\n\n{trace.content}")
    return example_of(tokenizer, trace.messages, reply)


def as_sampled(trace: Trace, tokenizer: Tokenizer) -> Example:
    """The trace in the tokens that a teacher with the student's tokenizer sampled; retold if its prompt differs."""
    if list(trace.prompt_ids) != tokenizer.encode_chat(trace.messages):
        return retold(trace, tokenizer)
    return Example(list(trace.prompt_ids), list(trace.reply_ids))

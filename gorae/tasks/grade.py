"""Grading a reply by rule: the exact answer, and the format the model's replies have. No model judges."""

from dataclasses import dataclass

from gorae.tasks.counter import Problem
from gorae.text import GORAE, ChatFormat, Mode, parse_reply

FORMAT_SHARE = 0.1  # of the reward; the rest is for the exact answer


@dataclass(frozen=True)
class Grade:
    """`correct`: a well-formed reply whose content is the answer to the letter; `answer`: what to count in a vote."""

    correct: bool
    well_formed: bool
    answer: str | None

    @property
    def reward(self) -> float:
        """Between 0 and 1: mostly for the exact answer, a little for the format."""
        return (1 - FORMAT_SHARE) * self.correct + FORMAT_SHARE * self.well_formed


def grade_reply(problem: Problem, text: str, *, mode: Mode = "free", chat_format: ChatFormat = GORAE) -> Grade:
    """Grade the text of a reply in `chat_format`, that of the model's tokenizer, to a prompt that led to `mode`.

    A format without thinking does not keep a base model from it: there the answer is the last paragraph.
    """
    reply = parse_reply(text, mode, chat_format)
    answer = reply.content.rpartition("\n\n")[2] if chat_format.thinks == "never" else reply.content
    return Grade(reply.complete and answer == problem.answer, reply.complete, answer.strip() or None)

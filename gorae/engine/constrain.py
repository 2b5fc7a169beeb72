"""Replies held to a form: which tokens may come next, by the library `llguidance`, token by token.

Nouns: Constraint (what a caller asks for), Grammars (a tokenizer as the library sees it, made once), Guide (one
request's place in its grammar). Forbidden tokens get no probability before a token is drawn; the log-probabilities
reported stay the model's own. Thinking is free, but for ending the reply; the constraint holds for the answer.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from torch import Tensor

from gorae.text import END_THINK, Mode, Tokenizer

Kind = Literal["json_schema", "regex", "lark"]


@dataclass(frozen=True)
class Constraint:
    """The form of an answer: a JSON schema, a regular expression, or a grammar in the notation of Lark.

    mode: how the prompt ends: inside the thinking ("think"), behind it ("direct", the default), or before the model
    has chosen ("free"). As `Tokenizer.encode_prompt` returns it.
    """

    kind: Kind
    text: str
    mode: Mode = "direct"

    @staticmethod
    def json(schema: Mapping[str, Any] | None = None, *, mode: Mode = "direct") -> "Constraint":
        """JSON that a schema describes; without one, any object."""
        return Constraint("json_schema", json.dumps({"type": "object"} if schema is None else schema), mode)

    def grammar(self) -> str:
        """In the library's notation."""
        if self.kind == "json_schema":
            return LLMatcher.grammar_from_json_schema(self.text)
        if self.kind == "regex":
            return LLMatcher.grammar_from_regex(self.text)
        return LLMatcher.grammar_from_lark(self.text)


class ConstraintError(ValueError):
    """What was given as a constraint is none, or none that the library can hold a reply to."""


class Grammars:
    """A tokenizer as the library sees it: bytes of tokens, which ones are control tokens, which end a reply."""

    def __init__(self, tokenizer: Tokenizer, *, vocab_size: int, end_ids: Collection[int]) -> None:
        self.tokenizer, self.vocab_size, self.end_ids = tokenizer, vocab_size, sorted(end_ids)
        self.library = LLTokenizer(TokenizerWrapper(self), eos_token=self.end_ids)
        after_thinking = tokenizer.chat_format.thinking_closing.partition(END_THINK)[2]
        self.lead_ids = tokenizer.encode(after_thinking)

    @property
    def eos_token_id(self) -> int:
        return self.end_ids[0]

    @property
    def bos_token_id(self) -> int | None:
        return self.tokenizer.bos_id

    @property
    def tokens(self) -> list[bytes]:
        pieces = [self.tokenizer.piece(token_id) for token_id in range(self.vocab_size)]
        return [text.encode() if data is None else data for text, data in pieces]

    @property
    def special_token_ids(self) -> list[int]:
        return [token_id for token_id in range(self.vocab_size) if self.tokenizer.piece(token_id)[1] is None]

    def __call__(self, text: str | bytes) -> list[int]:
        return self.tokenizer.encode(text if isinstance(text, str) else text.decode(errors="replace"))

    def guide(self, constraint: Constraint) -> "Guide":
        """A new request's place in a grammar. ConstraintError, with the library's words, for one that is none."""
        if constraint.mode == "think" and self.tokenizer.end_think_id is None:
            raise ConstraintError(
                "no token of this model ends its thinking, so that the answer could be held to anything"
            )
        try:
            grammar = constraint.grammar()
        except ValueError as error:
            raise complaint(constraint, [str(error)]) from None
        is_wrong, complaints = LLMatcher.validate_grammar_with_warnings(grammar, self.library)
        if is_wrong:
            raise complaint(constraint, complaints)
        return Guide(self, LLMatcher(self.library, grammar, log_level=0), constraint.mode)


class Guide:
    """One request's place in its grammar; it can be asked about any reply, and goes back where guesses were wrong."""

    def __init__(self, grammars: Grammars, matcher: LLMatcher, mode: Mode) -> None:
        self.grammars, self.matcher, self.mode = grammars, matcher, mode
        self.consumed: list[int] = []

    def allowed(self, reply_ids: Sequence[int]) -> Tensor | None:
        """Which tokens [W] may follow a reply; None where the reply is none that the grammar has."""
        thinking, lead, answer = self.parts(reply_ids)
        if answer is None:
            return self.all_but_ends() if thinking else self.only(lead)
        if not self.follow(answer):
            return None
        allowed_W = self.mask()
        if not reply_ids and self.mode == "free":
            allowed_W[[one for one in self.thinking_ids if one is not None]] = True
        return allowed_W

    def num_possible(self, reply_ids: Sequence[int], guesses: Sequence[int]) -> int:
        """How many guesses may follow a reply, one after the other."""
        for place, guess in enumerate(guesses):
            allowed_W = self.allowed([*reply_ids, *guesses[:place]])
            if allowed_W is None or not allowed_W[guess]:
                return place
        return len(guesses)

    @property
    def thinking_ids(self) -> tuple[int | None, int | None]:
        return self.grammars.tokenizer.think_id, self.grammars.tokenizer.end_think_id

    def parts(self, reply_ids: Sequence[int]) -> tuple[bool, list[int], list[int] | None]:
        """Whether the reply is still thinking, else what has to come before the answer, else the answer."""
        think_id, end_think_id = self.thinking_ids
        first = reply_ids[0] if reply_ids else None
        thinks = self.mode == "think" or (self.mode == "free" and first is not None and first == think_id)
        if not thinks:
            is_closed = self.mode == "free" and first is not None and first == end_think_id
            return False, [], list(reply_ids[is_closed:])
        if end_think_id is None or end_think_id not in reply_ids:
            return True, [], None
        after = list(reply_ids[list(reply_ids).index(end_think_id) + 1 :])
        lead_ids = self.grammars.lead_ids
        if len(after) < len(lead_ids):
            return False, lead_ids[len(after) :], None
        return False, [], after[len(lead_ids) :]

    def follow(self, answer: list[int]) -> bool:
        """Bring the matcher behind `answer`, from wherever it was; False if the grammar has no such beginning."""
        shared = 0
        while shared < min(len(answer), len(self.consumed)) and answer[shared] == self.consumed[shared]:
            shared += 1
        self.matcher.rollback(len(self.consumed) - shared)
        num_new = self.matcher.try_consume_tokens(answer[shared:])
        self.consumed = answer[: shared + num_new]
        return len(self.consumed) == len(answer)

    def mask(self) -> Tensor:
        bits = np.frombuffer(self.matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: self.grammars.vocab_size].astype(bool)
        if self.matcher.is_error():
            raise ConstraintError(f"a reply can not be held to its grammar any more: {self.matcher.get_error()}")
        return torch.from_numpy(allowed)

    def all_but_ends(self) -> Tensor:
        allowed_W = torch.ones(self.grammars.vocab_size, dtype=torch.bool)
        allowed_W[self.grammars.end_ids] = False
        return allowed_W

    def only(self, token_ids: Sequence[int]) -> Tensor:
        allowed_W = torch.zeros(self.grammars.vocab_size, dtype=torch.bool)
        allowed_W[token_ids[0]] = True
        return allowed_W


def complaint(constraint: Constraint, words: Sequence[str]) -> ConstraintError:
    """What the library says against a constraint, in one line."""
    text = constraint.text if len(constraint.text) <= 80 else constraint.text[:77] + "..."
    said = " ".join(" ".join(words).split())
    return ConstraintError(f"the {constraint.kind} {text} is none that a reply can be held to: {said}")

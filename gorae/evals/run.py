"""Evaluating a model on items: complete every prompt several times, grade every completion, summarise.

Nouns: `Sample` (one graded completion), `Evaluation` (the samples of every item). The items, the model behind
`complete` and the grader are handed in: this module knows no task and no engine.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from gorae.evals.statistics import bootstrap_interval, majority_vote, pass_at_k
from gorae.text import share_of_language


class Item(Protocol):
    """What is asked, and in which language ("ko", "zh", "en")."""

    @property
    def prompt(self) -> str: ...
    @property
    def language(self) -> str: ...


class Completion(Protocol):
    """What a model replied, and how many tokens that took; the text of a reply that was cut off is empty."""

    @property
    def text(self) -> str: ...
    @property
    def num_tokens(self) -> int: ...


class Grade(Protocol):
    """The verdict on one reply: whether it is correct, and the answer found in it, None if there is none.

    Answers that mean the same must be equal: the majority vote counts them as they are.
    """

    @property
    def correct(self) -> bool: ...
    @property
    def answer(self) -> str | None: ...


ItemT = TypeVar("ItemT", bound=Item)


@dataclass(frozen=True)
class Sample:
    """One graded completion; `consistency`, as below, is None where it is not known."""

    correct: bool
    answer: str | None
    num_tokens: int
    consistency: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """The samples of every item, at least one, and the items' languages, None where they are not known."""

    languages: tuple[str | None, ...]
    samples: tuple[tuple[Sample, ...], ...]

    @property
    def item_scores(self) -> list[float]:
        """The share of correct samples of each item; their mean is pass@1."""
        return [_mean(sample.correct for sample in samples) for samples in self.samples]

    def pass_at(self, k: int) -> float:
        """The mean chance that one of `k` samples of an item is correct, without bias; of items with so many."""
        enough = [group for group in self.samples if len(group) >= k]
        return _mean(pass_at_k(len(group), sum(one.correct for one in group), k) for group in enough)

    def as_dict(self) -> dict[str, Any]:
        """The summary that a report holds: shares from 0 to 1, lengths in tokens.

        The majority is taken over the extracted answers of an item; it is right if that answer was graded as correct.
        """
        scores = self.item_scores
        num_samples = max(map(len, self.samples))
        every = [sample for samples in self.samples for sample in samples]
        languages = sorted({language for language in self.languages if language is not None})
        known = [sample.consistency for sample in every if sample.consistency is not None]
        return {
            "pass_at_1": _mean(scores),
            "ci95": list(bootstrap_interval(scores)),
            f"majority_at_{num_samples}": _mean(_majority_is_correct(samples) for samples in self.samples),
            "pass_at_k": {str(k): self.pass_at(k) for k in _powers_of_two(num_samples)},
            "mean_length": _mean(sample.num_tokens for sample in every),
            "consistency": _mean(known) if known else None,
            "items": len(scores),
            "by_language": {language: self._summarise(language) for language in languages},
        }

    def _summarise(self, language: str | None) -> dict[str, Any]:
        scores = [score for score, of in zip(self.item_scores, self.languages, strict=True) if of == language]
        return {"pass_at_1": _mean(scores), "items": len(scores)}


def evaluate(
    items: Sequence[ItemT],
    complete: Callable[[list[str], int], Sequence[Sequence[Completion]]],
    grade: Callable[[ItemT, str], Grade],
    *,
    samples: int,
) -> Evaluation:
    """Sample every item's prompt `samples` times and grade what comes.

    `complete(prompts, samples)` returns a list of `samples` completions for each prompt, in order; `grade(item, text)`
    judges one of them. Raises ValueError without items or samples.
    """
    if not items or samples < 1:
        raise ValueError(f"nothing to evaluate: {len(items)} items with samples={samples}; give at least one of each")
    completions = complete([item.prompt for item in items], samples)
    assert [len(group) for group in completions] == [samples] * len(items), "complete returned too few or too many"
    graded = tuple(
        tuple(_grade(grade(item, completion.text), completion, item.language) for completion in group)
        for item, group in zip(items, completions, strict=True)
    )
    return Evaluation(tuple(item.language for item in items), graded)


def _grade(verdict: Grade, completion: Completion, language: str) -> Sample:
    consistency = consistency_of(completion.text, language)
    return Sample(verdict.correct, verdict.answer, completion.num_tokens, consistency)


def consistency_of(text: str, language: str) -> float:
    """The share of a reply's letters in a language; a reply without letters mixes nothing."""
    share = share_of_language(text, language)
    return 1.0 if share is None else share


def _majority_is_correct(samples: Sequence[Sample]) -> bool:
    winner = majority_vote([sample.answer for sample in samples])
    return winner is not None and any(sample.correct for sample in samples if sample.answer == winner)


def _powers_of_two(most: int) -> list[int]:
    return [2**power for power in range(most.bit_length())]


def _mean(values: Any) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)

"""Evaluation of small fakes, against brute force."""

from dataclasses import dataclass

import numpy as np
import pytest

from gorae.evals import Evaluation, Sample, bootstrap_interval, evaluate


@dataclass(frozen=True)
class Question:
    prompt: str
    language: str
    answer: str


@dataclass(frozen=True)
class Reply:
    text: str
    num_tokens: int


@dataclass(frozen=True)
class Verdict:
    correct: bool
    answer: str | None


QUESTIONS = [Question("1 + 1", "ko", "2"), Question("2 + 2", "en", "4"), Question("3 + 3", "ko", "6")]
REPLIES = {"1 + 1": ["2", "2", "3", "?"], "2 + 2": ["5", "5", "4", "?"], "3 + 3": ["?", "?", "?", "6"]}


def complete(prompts, samples):
    return [
        [Reply(text, num_tokens=len(prompt) + place) for place, text in enumerate(REPLIES[prompt][:samples])]
        for prompt in prompts
    ]


def grade(question, text):
    return Verdict(text == question.answer, None if text == "?" else text)


def test_every_item_is_sampled_graded_and_summarised():
    summary = evaluate(QUESTIONS, complete, grade, samples=4).as_dict()
    scores = [2 / 4, 1 / 4, 1 / 4]
    assert summary == {
        "pass_at_1": pytest.approx(np.mean(scores)),
        "ci95": list(bootstrap_interval(scores)),
        "majority_at_4": pytest.approx(2 / 3),  # 2 and 6 win where they are right, 5 where it is wrong
        "pass_at_k": {"1": pytest.approx(1 / 3), "2": pytest.approx(np.mean([5 / 6, 1 / 2, 1 / 2])), "4": 1.0},
        "mean_length": pytest.approx(np.mean([5, 6, 7, 8])),
        "consistency": 1.0,  # no letter is of another language
        "items": 3,
        "by_language": {
            "en": {"pass_at_1": 0.25, "items": 1},
            "ko": {"pass_at_1": pytest.approx(0.375), "items": 2},
        },
    }


def test_the_samples_keep_answers_verdicts_and_lengths_in_order():
    evaluation = evaluate(QUESTIONS, complete, grade, samples=2)
    assert evaluation.languages == ("ko", "en", "ko")
    assert evaluation.samples[1] == (Sample(False, "5", 5, 1.0), Sample(False, "5", 6, 1.0))
    assert "majority_at_2" in evaluation.as_dict()


def test_the_summary_agrees_with_numpy_on_random_samples():
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, 4, size=(50, 16))  # answer 0 is right, answer 3 is no answer
    samples = tuple(
        tuple(Sample(bool(value == 0), None if value == 3 else str(value), int(value)) for value in row)
        for row in drawn
    )
    summary = Evaluation(("zh",) * 50, samples).as_dict()
    right = 0
    for row in drawn.tolist():
        counts = [row.count(value) for value in (0, 1, 2)]
        tied = [value for value in (0, 1, 2) if counts[value] == max(counts)]
        right += min(tied, key=row.index) == 0
    assert summary["pass_at_1"] == pytest.approx((drawn == 0).mean())
    assert summary["majority_at_16"] == pytest.approx(right / 50)
    assert summary["mean_length"] == pytest.approx(drawn.mean())


def test_consistency_is_the_share_of_letters_in_the_language_of_the_question():
    def reply(prompts, samples):
        return [[Reply("답은 two", 3), Reply("둘", 1), Reply("", 9)]] * len(prompts)

    summary = evaluate(QUESTIONS[:1], reply, grade, samples=3).as_dict()
    assert summary["consistency"] == pytest.approx((2 / 5 + 1 + 1) / 3), "no text mixes nothing"
    assert Evaluation((None,), ((Sample(True, "2", 1),),)).as_dict()["consistency"] is None


def test_items_with_fewer_graded_samples_count_where_they_have_enough():
    right, wrong = Sample(True, "1", 1), Sample(False, "2", 1)
    summary = Evaluation(("ko", None), ((right, wrong, wrong, wrong), (right,))).as_dict()
    assert summary["pass_at_k"] == {"1": pytest.approx(0.625), "2": 0.5, "4": 1.0}
    assert summary["majority_at_4"] == 0.5
    assert summary["by_language"] == {"ko": {"pass_at_1": 0.25, "items": 1}}


@pytest.mark.parametrize(("items", "samples"), [([], 4), (QUESTIONS, 0)])
def test_nothing_to_evaluate_is_an_error(items, samples):
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(items, complete, grade, samples=samples)


def test_a_model_that_returns_too_few_completions_is_caught():
    with pytest.raises(AssertionError, match="too few"):
        evaluate(QUESTIONS, complete, grade, samples=5)

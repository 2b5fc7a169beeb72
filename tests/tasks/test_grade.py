"""What earns a reward: the exact answer in the exact format, and nothing else."""

import pytest

from gorae.tasks import Problem, grade_reply
from gorae.text import PLAIN, R1, V3, V3_1

PROBLEM = Problem("en", (("+", 6),), "1 plus 6: which digit?")
THOUGHT = "<think>\n1+6=7\n</think>\n\n"


def test_the_answer_to_the_letter_in_the_right_format_earns_everything():
    for mode, text in (
        ("free", f"{THOUGHT}7"),
        ("free", "</think>7"),
        ("think", "1+6=7\n</think>\n\n7"),
        ("direct", "7"),
    ):
        grade = grade_reply(PROBLEM, text, mode=mode)
        assert (grade.correct, grade.well_formed, grade.answer, grade.reward) == (True, True, "7", 1.0)


def test_a_wrong_answer_in_the_right_format_earns_the_little_that_format_is_worth():
    grade = grade_reply(PROBLEM, f"{THOUGHT}8")
    assert (grade.correct, grade.well_formed, grade.answer) == (False, True, "8")
    assert 0 < grade.reward <= 0.1


def test_the_reasoning_is_not_graded():
    assert grade_reply(PROBLEM, "<think>\nnonsense\n</think>\n\n7").reward == 1.0
    assert not grade_reply(PROBLEM, "<think>\n1+6=7, the answer is 7\n</think>\n\n8").correct


@pytest.mark.parametrize(
    "content",
    [
        *("07", "7.", "7.0", "+7", "-7", "17", "77", "7 7", "7, 8", "7 or 8", "1 2 3 4 5 6 7 8 9", "8 7", "7\n8"),
        *("칠", "七", "seven", "７", "٧", "⑦", "VII", "답: 7", "7입니다", "The answer is 7", "**7**", "`7`", "=7"),
        *(" 7", "7 ", "7\n", "\t7", "\u200b7", "7\u3000", "\ufeff7", "7\x00"),
        PROBLEM.prompt,
        f"{PROBLEM.prompt}7",
    ],
)
@pytest.mark.parametrize("opening", [THOUGHT, "</think>"])
def test_anything_but_the_answer_alone_is_not_correct(opening, content):
    grade = grade_reply(PROBLEM, opening + content)
    assert not grade.correct
    assert grade.reward <= 0.1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        PROBLEM.prompt,
        "<think>",
        "<think>\n7",
        "<think>\n1+6=7\n</think>",
        "<think>\n1+6=7\n</think>\n\n",
        "<think>\n1+6=7\n</think>\n7",
        "<think>\n1+6=7\n</think>7",
        "<think>1+6=7</think>\n\n7",
        "<think>\n1+6=7\n</think>\n\n\n",
        "</think>",
        "</think> ",
        " </think>7",
        "\n<think>\n1+6=7\n</think>\n\n7",
        "<think>\n<think>\n1+6=7\n</think>\n\n7",
        "<think>\n1+6=7\n</think>\n\n</think>7",
        "<think>\n1+6=7\n</think>\n\n7</think>",
        "<think>\n1+6=7\n</think>\n\n7<think>",
        "</think>7</think>7",
        "<THINK>\n1+6=7\n</THINK>\n\n7",
        "7<think>\n1+6=7\n</think>\n\n7",
    ],
)
def test_a_reply_out_of_format_earns_nothing(text):
    assert grade_reply(PROBLEM, text).reward == 0


@pytest.mark.parametrize("mode", ["think", "direct"])
def test_a_reply_that_repeats_what_the_prompt_already_holds_is_out_of_format(mode):
    assert grade_reply(PROBLEM, f"{THOUGHT}7", mode=mode).reward == 0
    assert grade_reply(PROBLEM, "</think></think>7", mode=mode).reward == 0


@pytest.mark.parametrize("text", ["", "<think>\n7", "<think>\n7\n</think>\n\n", "</think> \n"])
def test_without_content_there_is_no_answer_to_vote_with(text):
    assert grade_reply(PROBLEM, text).answer is None


@pytest.mark.parametrize("answer", [str(digit) for digit in range(10)])
def test_one_of_ten_answers_is_correct(answer):
    assert grade_reply(PROBLEM, f"</think>{answer}").correct == (answer == "7")


@pytest.mark.parametrize(
    ("chat_format", "mode", "text"),
    [
        (R1, "think", "1+6=7\n</think>\n\n7"),
        (R1, "free", f"{THOUGHT}7"),
        (V3_1, "think", "1+6=7</think>7"),
        (V3_1, "direct", "7"),
        (V3, "direct", "7"),
        (PLAIN, "direct", "7"),
    ],
)
def test_a_reply_in_any_format_is_graded_by_its_own_rules(chat_format, mode, text):
    grade = grade_reply(PROBLEM, text, mode=mode, chat_format=chat_format)
    assert (grade.correct, grade.well_formed, grade.reward) == (True, True, 1.0)
    wrong = grade_reply(PROBLEM, text[:-1] + "8", mode=mode, chat_format=chat_format)
    assert (wrong.correct, wrong.well_formed, wrong.answer) == (False, True, "8")


@pytest.mark.parametrize(
    ("chat_format", "mode", "text"),
    [
        (R1, "think", "1+6=7</think>7"),
        (R1, "think", "7"),
        (V3, "direct", "<think>\n1+6=7\n</think>\n\n7"),
    ],
)
def test_a_reply_in_the_format_of_another_model_earns_nothing(chat_format, mode, text):
    assert grade_reply(PROBLEM, text, mode=mode, chat_format=chat_format).reward == 0


def test_a_base_model_that_answers_without_a_format_is_graded_by_its_last_paragraph():
    for text, correct in (("7", True), ("\n1+6=7\n\n7", True), ("\n1+6=7\n\n8", False), ("\n1+6=7", False)):
        grade = grade_reply(PROBLEM, text, mode="direct", chat_format=PLAIN)
        assert (grade.correct, grade.well_formed) == (correct, True), text

"""The five classic broken graders are caught, and sound ones pass."""

import pytest

from gorae.tasks import examine

ROWS = """
    import re
    rows = [{"prompt": f"What is {n} + {n}? Say it as a number.", "answer": str(2 * n)} for n in range(10, 50)]

    def each(grade):
        return lambda completions, answer: [float(grade(*pair)) for pair in zip(completions, answer)]
"""
LAST_NUMBER = (
    ROWS
    + """
    def reward(contents, answer):
        return [float(re.findall(r"-?\\d+", content or "")[-1:] == [right]) for content, right in zip(contents, answer)]
"""
)
BROKEN = {
    "refuses right answers": ("right", "reward = each(lambda text, right: text == int(right))"),
    "gives crumbs to nothing": ("empty", "reward = each(lambda text, right: 1.0 if right in text else 0.05)"),
    "finds the answer in an echo": (
        "echo",
        "reward = each(lambda text, right: str(int(right) // 2) in text or right in text)",
    ),
    "pays for the form": ("format only", "reward = each(lambda text, right: '<think>' in text)"),
    "takes any number": ("random", "reward = each(lambda text, right: bool(re.search(r'\\d{2}', text[20:])))"),
}


def kinds_that_fail(found) -> list[str]:
    return [finding.kind for finding in found.findings if not finding.is_well]


def test_a_sound_grader_passes(graders):
    found = examine(graders(LAST_NUMBER))
    assert found.is_sound, found
    assert found.form == "{}"
    assert [finding.num_all for finding in found.findings] == [32] * 6


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_grader_is_caught_at_what_it_does_wrong(graders, broken):
    kind, source = BROKEN[broken]
    found = examine(graders(f"{ROWS}\n    {source}\n"))
    assert not found.is_sound
    assert kind in kinds_that_fail(found)


def test_a_grader_that_fails_or_throws_coins_is_not_sound(graders):
    raises = examine(graders(ROWS + "\n    reward = each(lambda text, right: 1 / len(text))\n"))
    assert "empty" in kinds_that_fail(raises)
    (empty,) = [finding for finding in raises.findings if finding.kind == "empty"]
    assert "ZeroDivisionError" in empty.example
    coin = examine(graders("    import random\n" + ROWS + "\n    reward = each(lambda *_: random.random() < 0.5)\n"))
    assert {"right", "right again"} <= set(kinds_that_fail(coin))


@pytest.mark.parametrize(
    ("form", "pattern"),
    [("\\boxed{{{}}}", r"boxed\{(.*)\}"), ("<answer>{}</answer>", "<answer>(.*)</answer>"), ("#### {}", "#### (.*)")],
)
def test_right_answers_are_written_in_the_form_that_a_grader_looks_for(graders, form, pattern):
    found = examine(
        graders(ROWS + f"\n    reward = each(lambda text, right: re.findall(r'{pattern}', text) == [right])\n")
    )
    assert found.form == form
    assert found.is_sound, found


def test_functions_that_reward_the_form_are_not_judged_by_what_is_right(graders):
    source = (
        LAST_NUMBER
        + """
    def reward_format(completions):
        return [float("<think>" in text) for text in completions]
"""
    )
    assert examine(graders(source)).is_sound


def test_fewer_rows_than_wished_for_are_all_of_a_list(graders):
    found = examine(graders(LAST_NUMBER), num_rows=1000)
    assert found.findings[0].num_all == 40

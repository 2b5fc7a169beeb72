"""Ready reward functions, and the tasks that come with Gorae."""

import pytest

from gorae.tasks import (
    READY,
    Graders,
    examine,
    protections,
    reward_code,
    reward_exact,
    reward_format,
    reward_json,
    reward_language,
    reward_math,
)

WHALE = {"type": "object", "properties": {"name": {"type": "string"}, "tons": {"type": "number"}}, "required": ["name"]}


@pytest.mark.parametrize("name", sorted(READY))
def test_a_task_that_comes_with_gorae_is_sound(name):
    with Graders(name) as graders:
        found = examine(graders)
        assert found.is_sound, found
        assert {row["language"] for row in graders.rows(0, 0, 40)} == {"ko", "zh", "en"}
        assert graders.rows(1, 0, 5) == graders.rows(1, 0, 5) != graders.rows(2, 0, 5)


def test_an_exact_answer_is_the_content_and_nothing_else():
    assert reward_exact([" 7\n", "7.", "77", None], [7, "7", "7", "7"]) == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("content", "answer", "reward"),
    [
        ("The answer is $\\frac{1}{2}$", "0.5", 1),
        ("0.5", "1/2", 1),
        ("\\boxed{x + 1}", "1 + x", 1),
        ("x is 3, so it is 4", "4", 1),
        (r"$\{1, 2\}$", r"\{2, 1\}", 1),
        ("3", "4", 0),
        ("no idea", "4", 0),
        ("", "0", 0),
        (None, "4", 0),
    ],
)
def test_mathematics_is_compared_by_value_however_it_is_written(content, answer, reward):
    assert reward_math([content], [answer]) == [reward]


def test_an_answer_that_is_no_mathematics_is_the_tasks_mistake():
    with pytest.raises(ValueError, match="the answer '' is no mathematics that can be read"):
        reward_math(["4"], [""])


@pytest.mark.parametrize(
    ("content", "reward"),
    [
        ('{"name": "고래", "tons": 150}', 1),
        ('```json\n{"name": "고래"}\n```', 1),
        ('{"tons": 150}', 0),
        ('{"name": 3}', 0),
        ("a whale", 0),
        ("[" * 100_000, 0),
        (None, 0),
    ],
)
def test_json_has_to_be_valid_by_the_rows_schema(content, reward):
    assert reward_json([content], [WHALE]) == [reward]


def test_a_schema_that_is_none_is_the_tasks_mistake():
    with pytest.raises(Exception, match="is not valid under any of the given schemas"):
        reward_json(["{}"], [{"type": "whale"}])


@pytest.mark.skipif(not protections().enough, reason=str(protections()))
def test_code_earns_by_passing_its_rows_tests_alone_or_in_a_fence():
    right, wrong = "def double(x):\n    return 2 * x\n", "def double(x):\n    return x + 2\n"
    fenced = f"Like this:\n```python\n{wrong}```\nor rather\n```\n{right}```\nand that is it."
    contents = [right, wrong, fenced, "no idea", None]
    assert reward_code(contents, ["assert double(3) == 6\nassert double('a') == 'aa'"] * 5) == [1, 0, 1, 0, 0]


def test_a_reply_that_came_to_its_end_has_the_format():
    assert reward_format(["7", "", None]) == [1, 1, 0]


@pytest.mark.parametrize(
    ("text", "language", "share"),
    [
        ("고래는 1마리", "ko", 1),
        ("鲸鱼 2", "zh", 1),
        ("a whale", "en", 1),
        ("고래 is big", "ko", 2 / 7),
        ("кит", "en", 0),
        ("1 + 2 = 3", "en", None),
        ("<think>\n고래\n</think>\n\n1<｜end▁of▁sentence｜>", "ko", 1),
    ],
)
def test_a_language_is_known_by_its_letters(text, language, share):
    assert reward_language([text, [{"role": "assistant", "content": text}]], [language] * 2) == [share, share]


def test_a_language_without_a_known_script_is_refused():
    with pytest.raises(ValueError, match="language='fr' is none of ko, zh, en"):
        reward_language(["a"], ["fr"])

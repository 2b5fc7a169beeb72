"""Searching and citing: documents are found in three languages, and only what was found and says so may be cited."""

from collections import Counter

import pytest

from gorae.tasks import Environments, Graders, Index, Library, Reply, examine, load_task
from gorae.tasks.library import terms_of
from gorae.text import Message, ToolCall


@pytest.fixture(scope="module")
def graders():
    with Graders("search_and_cite") as graders:
        yield graders


def test_words_are_counted_where_they_are_set_apart_and_pairs_of_characters_elsewhere():
    assert terms_of("The Tower, 42 m: 塔高42米 오래된 탑") == [
        "the",
        "tower",
        "42",
        "m",
        "塔高",
        "42",
        "米",
        "오래",
        "래된",
        "탑",
    ]


def test_the_rarer_the_words_that_are_shared_the_higher_a_document_stands():
    index = Index({"a": "the whale sings in the sea", "b": "the sea is the sea", "c": "the whale the whale"}, most=2)
    assert index("whale sea") == ["a", "c"]
    assert index("IS") == ["b"]
    assert index("desert") == []


def test_another_search_function_may_be_handed_in():
    library = Library({"a": "one", "b": "two"}, lambda query: ["b"])
    assert library.search("one") == "[b] two"
    assert library.found == {"b"}
    library.reset()
    assert not library.found
    assert Library({}).search("x") == "Nothing was found."


def test_every_question_finds_its_document_in_three_languages():
    task = load_task("search_and_cite")
    library = task.environment_factory()
    assert Counter(row["language"] for row in task.rows) == {"ko": 120, "zh": 120, "en": 120}
    assert all(f"[{row['source']}]" in library.search(row["question"]) for row in task.rows)


def test_the_task_is_sound(graders):
    found = examine(graders, num_rows=30)
    assert found.is_sound, found
    assert {row["language"] for row in graders.rows(0, 0, 30)} == {"ko", "zh", "en"}


@pytest.mark.parametrize(
    ("content", "searches", "reward"),
    [
        ("{answer} [{source}]", True, 1.0),
        ("It is {answer}, says [{source}].", True, 1.0),
        ("{answer} [{source}]", False, 0.0),  # a citation of what was never read
        ("{answer}", True, 0.0),
        ("[{source}]", True, 0.0),
        ("{answer} or 5 [{source}]", True, 0.0),
        ("{answer} [{source}] [d1] [d2]", True, 0.0),
    ],
)
def test_only_the_answer_with_the_document_that_says_so_earns_anything(graders, content, searches, reward):
    row = graders.rows(3, 5, 1)[0]
    world = Environments(graders, [row], 1)
    world.act([(0, [])])
    turns = [Message("assistant", "", tool_calls=(ToolCall("call_0", "search", f'{{"query": "{row["question"]}"}}'),))]
    if searches:
        assert row["source"] in world.act([(0, turns)])[0].texts[0]
    content = content.format(**row)
    reply = Reply(content, content, scene=world.scene(0, turns if searches else []))
    ((verdict,),) = graders.grade([row], [[reply]])
    assert (verdict.reward, verdict.error) == (reward, None)

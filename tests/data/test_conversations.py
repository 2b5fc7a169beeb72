"""Rows to tune on: every form of TRL's, and that a row that is none of them is an error with its place."""

import json

import pytest

from gorae.data import read_demonstrations, read_preferences
from gorae.text import Message

USER, OTHER = {"role": "user", "content": "1 + 1?"}, {"role": "user", "content": "and then?"}
REPLY, BETTER = {"role": "assistant", "content": "3"}, {"role": "assistant", "content": "2"}
THINKING = {"role": "assistant", "content": "2", "reasoning_content": "one and one"}
QUESTION = Message("user", "1 + 1?")


@pytest.fixture
def file(tmp_path):
    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("row", "contents", "first"),
    [
        ({"messages": [USER, REPLY, OTHER, BETTER]}, ["1 + 1?", "3", "and then?", "2"], 0),
        ({"prompt": "1 + 1?", "completion": "2"}, ["1 + 1?", "2"], 1),
        ({"prompt": [USER, REPLY, OTHER], "completion": [BETTER]}, ["1 + 1?", "3", "and then?", "2"], 3),
        ({"prompt": "1 + 1?", "completion": [THINKING]}, ["1 + 1?", "2"], 1),
    ],
)
def test_conversations_are_messages_or_prompt_and_completion(file, row, contents, first):
    (found,) = read_demonstrations(file(row))
    assert [message.content for message in found.messages] == contents
    assert (found.first, found.place.rpartition(", ")[2]) == (first, "line 1")


def test_reasoning_stays_beside_its_answer(file):
    (found,) = read_demonstrations(file({"messages": [USER, THINKING]}))
    assert found.messages[1] == Message("assistant", "2", "one and one")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "1 + 1?", "chosen": "2", "rejected": "3"},
        {"prompt": [USER], "chosen": [BETTER], "rejected": [REPLY]},
        {"prompt": "1 + 1?", "chosen": [USER, BETTER], "rejected": [USER, REPLY]},
        {"chosen": [USER, BETTER], "rejected": [USER, REPLY]},
    ],
)
def test_a_pair_is_the_same_in_every_form(file, row):
    (found,) = read_preferences(file(row))
    assert (found.prompt, found.chosen, found.rejected) == (
        (QUESTION,),
        Message("assistant", "2"),
        Message("assistant", "3"),
    )


def test_turns_that_both_replies_begin_with_go_on_from_the_prompt(file):
    shared = [REPLY, OTHER]
    (found,) = read_preferences(file({"prompt": "1 + 1?", "chosen": [*shared, BETTER], "rejected": [*shared, REPLY]}))
    assert [message.content for message in found.prompt] == ["1 + 1?", "3", "and then?"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("[1]", 'a list, not an object; write {"messages": [...]} or {"prompt": ..., "completion": ...}'),
        ({"prompt": "x"}, 'the row has no completion; write {"messages": [...]} or'),
        ({"text": "x"}, "the row has no prompt and no completion; write"),
        ({"messages": [USER]}, "no assistant's message follows another to imitate"),
        ({"messages": [REPLY]}, "no assistant's message follows another to imitate"),
        ({"prompt": [USER, REPLY], "completion": [OTHER]}, "no assistant's message follows another to imitate"),
        ({"messages": [USER, REPLY], "tools": [{}]}, "lists of tools are not learnt from"),
        ({"prompt": 3, "completion": "x"}, "prompt: messages must be a list with at least one message"),
        ({"messages": [USER, {"role": "tool", "content": "x", "tool_call_id": "a"}]}, "which is not open"),
    ],
)
def test_a_row_without_something_to_imitate_is_an_error_with_its_line(file, row, told):
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2") as error:
        list(read_demonstrations(file({"prompt": "x", "completion": "y"}, row)))
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": "x", "chosen": "y"}, "the row has no rejected; write"),
        ({"chosen": "y", "rejected": "z"}, "there is no prompt; write"),
        ({"prompt": "x", "chosen": "y", "rejected": "y"}, "chosen and rejected are the same"),
        ({"prompt": "x", "chosen": [BETTER, OTHER, REPLY], "rejected": "y"}, "chosen must be one assistant's message"),
        ({"prompt": "x", "chosen": "y", "rejected": [OTHER]}, "rejected must be one assistant's message"),
    ],
)
def test_a_row_that_is_no_pair_is_an_error_with_its_line(file, row, told):
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1") as error:
        list(read_preferences(file(row)))
    assert told in str(error.value)


@pytest.mark.parametrize("name", ["rows.parquet", "missing.jsonl"])
def test_other_files_are_refused(tmp_path, name):
    (tmp_path / "rows.parquet").touch()
    with pytest.raises(ValueError, match=r"no \.jsonl file is there"):
        list(read_demonstrations(tmp_path / name))

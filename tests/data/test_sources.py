import json

import pyarrow
import pyarrow.parquet
import pytest

from gorae.data import Document, find_sources, read_documents, standard_library_documents
from gorae.text import Message, ToolCall

TURNS = [{"role": "user", "content": "3 + 4?"}, {"role": "assistant", "content": "7", "reasoning_content": "3, 4"}]
MESSAGES = (Message("user", "3 + 4?"), Message("assistant", "7", reasoning="3, 4"))


def write_parquet(path, **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def complaint(path):
    with pytest.raises(ValueError) as caught:
        list(read_documents(path))
    return str(caught.value)


def jsonl_complaint(tmp_path, *lines):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return complaint(file).removeprefix(f"{file}, ")


def test_a_folder_is_read_whole_and_in_sorted_order(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.MD").write_text("고래", encoding="utf-8")
    (tmp_path / "a.txt").write_text("\ufeff鲸鱼\r\n", encoding="utf-8", newline="")
    (tmp_path / "sub" / "c.py").write_text("x = 1")
    (tmp_path / "d.jsonl").write_text(f'\n{{"text": "one"}}\n\n{json.dumps({"messages": TURNS})}\n')
    write_parquet(tmp_path / "e.parquet", text=["two", None], messages=[None, TURNS], other=[1, 2])
    assert list(read_documents(tmp_path)) == [
        Document("鲸鱼\r\n", f"{tmp_path}/a.txt"),
        Document("고래", f"{tmp_path}/b.MD"),
        Document("one", f"{tmp_path}/d.jsonl, line 2"),
        Document("3 + 4?\n7", f"{tmp_path}/d.jsonl, line 4", MESSAGES),
        Document("two", f"{tmp_path}/e.parquet, row 1"),
        Document("3 + 4?\n7", f"{tmp_path}/e.parquet, row 2", MESSAGES),
        Document("x = 1", f"{tmp_path}/sub/c.py"),
    ]


def test_a_single_file_is_read(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    assert [document.text for document in read_documents(str(tmp_path / "a.txt"))] == ["text"]


def test_messages_count_where_a_row_has_both(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "rendered", "messages": TURNS}))
    assert [document.messages for document in read_documents(tmp_path)] == [MESSAGES]


def test_tool_calls_and_their_results_are_read_from_both_kinds_of_rows(tmp_path):
    call = {"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"a": 3}'}}
    turns = [
        {"role": "user", "content": "3 + 4?"},
        {"role": "assistant", "content": None, "reasoning_content": "add", "tool_calls": [call]},
        {"role": "tool", "content": "7", "tool_call_id": "a"},
        {"role": "assistant", "content": "7", "tool_calls": None},
    ]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": turns}))
    write_parquet(tmp_path / "b.parquet", messages=[turns])
    expected = (
        Message("user", "3 + 4?"),
        Message("assistant", "", "add", (ToolCall("a", "add", '{"a": 3}'),)),
        Message("tool", "7", tool_call_id="a"),
        Message("assistant", "7"),
    )
    assert [document.messages for document in read_documents(tmp_path)] == [expected, expected]


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ({"tool_calls": "x"}, 'tool_calls must be of the form [{"id": ..., "function": {"name": ...'),
        ({"tool_calls": [{"id": "a"}]}, "tool_calls must be of the form"),
        (
            {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {}}}]},
            "tool_calls.function.arguments is a dict, not a string",
        ),
        ({"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, "tool_calls.id is a NoneType, not a string"),
        (
            {"tool_calls": [{"id": "a", "function": {"name": "f g", "arguments": "{}"}}]},
            "a tool can not be called 'f g'",
        ),
        ({"tool_call_id": "a"}, "a assistant message with tool_call_id='a'"),
        ({"tool_call_id": 1}, "tool_call_id is a int, not a string"),
    ],
)
def test_a_tool_call_that_can_not_be_read_is_an_error_with_its_place(tmp_path, turn, expected):
    row = {"messages": [{"role": "assistant", "content": "x", **turn}]}
    found = jsonl_complaint(tmp_path, json.dumps(row))
    assert found.startswith("line 1, message 0: " + expected)
    assert found.count("line 1") == 1


def test_files_that_are_not_read_are_counted_and_reported(tmp_path):
    for name in ("a.txt", "b.png", "c.PNG", "Makefile"):
        (tmp_path / name).write_text("text")
    (tmp_path / "link").symlink_to(tmp_path)
    reported = []
    assert len(list(read_documents(tmp_path, report=reported.append))) == 1
    kinds = "2 .png, 1 link to a folder, 1 without suffix"
    assert reported == [f"{tmp_path}: not read, because only .txt .md .py .jsonl .parquet are: {kinds}"]
    sources = find_sources(tmp_path)
    assert sources.files == (tmp_path / "a.txt",)
    assert sources.skipped == {".png": 2, "without suffix": 1, "link to a folder": 1}


def test_nothing_is_reported_where_everything_is_read(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    assert find_sources(tmp_path).describe_skipped() == ""
    list(read_documents(tmp_path, report=pytest.fail))


def test_a_path_with_nothing_to_read_is_an_error(tmp_path):
    assert complaint(tmp_path / "no") == f"{tmp_path}/no: no such file or folder; check the path"
    readable = ".txt .md .py .jsonl .parquet"
    assert complaint(tmp_path).endswith(
        f"the folder holds nothing, but no {readable}; put text there or give another folder"
    )
    (tmp_path / "a.png").write_text("x")
    assert f"the folder holds 1 .png, but no {readable};" in complaint(tmp_path)
    assert f"a .png file cannot be read; give one of {readable}" in complaint(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.py", "a.jsonl"])
@pytest.mark.parametrize("content", ["", " \n\n"])
def test_an_empty_file_is_an_error(tmp_path, name, content):
    (tmp_path / "other.txt").write_text("text")
    (tmp_path / name).write_text(content)
    assert complaint(tmp_path) == f"{tmp_path}/{name}: the file is empty; fill it, or move it away"


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path):
    (tmp_path / "a.txt").symlink_to(tmp_path / "gone")
    assert complaint(tmp_path) == (
        f"{tmp_path}/a.txt: cannot be read (No such file or directory); check that it is whole and open to you"
    )


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("text")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", refuse)
    assert complaint(tmp_path) == f"{tmp_path}: cannot be listed (Permission denied); check that it is yours"


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.py"])
def test_text_that_is_not_utf8_is_an_error_with_its_place(tmp_path, name):
    (tmp_path / name).write_bytes("고래\nab고".encode() + "고".encode("cp949"))
    assert complaint(tmp_path) == (
        f"{tmp_path}/{name}, line 2, byte 6: 0xb0 is not UTF-8; "
        "convert the file (iconv -f ITS_ENCODING -t UTF-8), or move it away"
    )


def test_a_row_that_is_not_utf8_is_an_error_with_its_place(tmp_path):
    found = jsonl_complaint(tmp_path, '{"text": "고"}', b'{"text": "\xff"}')
    assert found.startswith("line 2, byte 11: 0xff is not UTF-8; convert the file")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ('{"text": }', "not valid JSON (Expecting value, column 10); fix or remove the line"),
        ("[1]", 'a list, not an object; write {"text": ...} or {"messages": ...}'),
        ('{"prompt": "x", "id": 1}', "the row holds prompt, id; give it a text or messages, or remove it"),
        ("{}", "the row holds nothing; give it a text or messages, or remove it"),
        ('{"text": null}', "the row holds text; give it a text or messages, or remove it"),
        ('{"text": 3}', "text is a int, not a string; fix or remove the row"),
        ('{"text": " "}', "text is empty; fill it, or remove the row"),
        ('{"text": "\\ud800"}', "text holds half a surrogate pair, which no text can; fix or remove the row"),
        ('{"messages": []}', "messages must be a list with at least one message; fix or remove the row"),
        ('{"messages": "x"}', "messages must be a list with at least one message; fix or remove the row"),
        ('{"messages": ["x"]}', 'message 0: a str, not an object; write {"role": ..., "content": ...}'),
        ('{"messages": [{"role": "user"}]}', "message 0: content is a NoneType, not a string; fix or remove the row"),
        (
            '{"messages": [{"role": "user", "content": "x"}, {"role": "robot", "content": "x"}]}',
            "message 1: role='robot' is not a role; use one of system, user, assistant, tool",
        ),
        (
            '{"messages": [{"role": "assistant", "content": "x", "reasoning_content": 1}]}',
            "message 0: reasoning_content is a int, not a string; fix or remove the row",
        ),
    ],
)
def test_a_bad_row_is_an_error_with_its_line(tmp_path, row, expected):
    found = jsonl_complaint(tmp_path, '{"text": "good"}', "", row)
    assert found.removeprefix("line 3").lstrip(":, ") == expected


def test_a_parquet_file_without_our_columns_is_an_error_that_names_its_own(tmp_path):
    write_parquet(tmp_path / "a.parquet", prompt=["x"], answer=["y"])
    assert complaint(tmp_path) == (
        f"{tmp_path}/a.parquet: it has the columns prompt, answer; name one of them text or messages"
    )


def test_a_parquet_file_without_rows_is_an_error(tmp_path):
    write_parquet(tmp_path / "a.parquet", text=pyarrow.array([], pyarrow.string()))
    assert complaint(tmp_path) == f"{tmp_path}/a.parquet: the file has no rows; fill it, or move it away"


@pytest.mark.parametrize("content", [b"", b"this is not parquet"])
def test_a_file_that_is_not_parquet_is_an_error(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    found = complaint(tmp_path)
    assert found.startswith(f"{tmp_path}/a.parquet: cannot be read (")
    assert found.endswith("; check that it is whole and open to you")


def test_a_damaged_parquet_file_is_an_error(tmp_path):
    file = tmp_path / "a.parquet"
    write_parquet(file, text=["고래 " * 100] * 100)
    content = bytearray(file.read_bytes())
    content[4:40] = b"\xff" * 36
    file.write_bytes(content)
    assert complaint(tmp_path).startswith(f"{file}: cannot be read (")


def test_a_bad_parquet_row_is_an_error_with_its_number(tmp_path):
    write_parquet(tmp_path / "a.parquet", text=["x", None])
    assert complaint(tmp_path) == (
        f"{tmp_path}/a.parquet, row 2: the row holds text; give it a text or messages, or remove it"
    )
    write_parquet(tmp_path / "a.parquet", text=[1, 2])
    assert complaint(tmp_path) == f"{tmp_path}/a.parquet, row 1: text is a int, not a string; fix or remove the row"


def test_a_parquet_string_that_is_not_utf8_is_an_error_with_its_rows(tmp_path):
    write_parquet(tmp_path / "a.parquet", text=pyarrow.array([b"ok", b"\xff"]).cast(pyarrow.string(), safe=False))
    assert complaint(tmp_path).startswith(f"{tmp_path}/a.parquet, rows 1 to 2: a string is not UTF-8 (")


def test_the_standard_library_is_read_without_tests_applications_and_tables():
    documents = list(standard_library_documents())
    sources = [document.source for document in documents]
    assert sources == sorted(sources)
    assert {"stdlib/textwrap.py", "stdlib/json/decoder.py"} < set(sources)
    unwanted = {"test", "tests", "site-packages", "idlelib", "lib2to3", "encodings"}
    assert all(unwanted.isdisjoint(source.split("/")) for source in sources)
    assert all(document.text.strip() for document in documents)


def test_a_python_without_sources_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(ValueError, match="no standard library sources; give your own text with --data PATH"):
        list(standard_library_documents())

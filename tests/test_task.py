"""Task files: what is read from them, and what is said of those that are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tokenprior.errors import ConfigError, DataError
from tokenprior.load import load_tasks
from tokenprior.task import Task, TaskSet, content_hash


def written(tmp_path: Path, content: str | bytes, name: str = "t.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(tmp_path: Path, *values: dict[str, Any]) -> Path:
    return written(tmp_path, "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))


def test_jsonl_lines_end_at_newlines_only(tmp_path: Path) -> None:
    question = "one\u2028two\u0085three\x0cfour"
    tasks = load_tasks(rows(tmp_path, {"question": question, "answer": "a"}, {"question": "q2", "answer": "b"}))
    assert [task.question for task in tasks] == [question, "q2"]


def test_a_byte_order_mark_crlf_and_empty_lines_do_no_harm(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf{"question": "q1", "answer": "a"}\r\n\r\n{"question": "q2", "answer": "b"}\r\n'
    assert [task.answer for task in load_tasks(written(tmp_path, content))] == ["a", "b"]
    content = b"\xef\xbb\xbfquestion,answer\r\nq1,a\r\n\r\nq2,b\r\n"
    assert [task.answer for task in load_tasks(written(tmp_path, content, "t.csv"))] == ["a", "b"]


def test_csv_keeps_newlines_and_separators_inside_quotes(tmp_path: Path) -> None:
    path = written(tmp_path, 'question,answer\n"one\ntwo, ""three""\u2028",a\nq2,b\n', "t.csv")
    assert [task.question for task in load_tasks(path)] == ['one\ntwo, "three"\u2028', "q2"]


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ('question,answer\n"a\nb",1\n\n"c\n\nd",2\n,3\n', 8, "must be a text"),
        ('"question\nhere",answer\nq,1\nq,2,3\n', 4, "more fields"),
        ("question,answer\n\n\nq\n", 4, "fewer fields"),
        ('question,answer\nq,1\n"open,2\n', 3, "not CSV"),
        ("question,answer,answer\nq,1,2\n", 1, "'answer'] twice"),
    ],
)
def test_csv_errors_name_the_line_where_the_row_begins(tmp_path: Path, content: str, line: int, words: str) -> None:
    fields = {"question": "question\nhere"} if content.startswith('"') else {}
    with pytest.raises(DataError) as caught:
        load_tasks(written(tmp_path, content, "t.csv"), fields=fields)
    assert f"t.csv:{line}: " in str(caught.value)
    assert words in str(caught.value)


def test_fields_are_mapped_and_the_rest_is_metadata(tmp_path: Path) -> None:
    path = rows(tmp_path, {"uid": 7, "problem": "p", "target": [1, 2], "level": "hard", "metadata": {"source": "x"}})
    (task,) = load_tasks(path, fields={"id": "uid", "question": "problem", "answer": "target"})
    assert task == Task(id="7", question="p", answer=[1, 2], metadata={"source": "x", "level": "hard"})


def test_metadata_that_is_no_object_is_kept_under_its_name(tmp_path: Path) -> None:
    (task,) = load_tasks(written(tmp_path, "question,answer,tag\nq,a,easy\n", "t.csv"), fields={"metadata": "tag"})
    assert task.metadata == {"tag": "easy"}


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ("x", ("x",)),
        (["x", 2, 1.5], ("x", "2", "1.5")),
        (3, ("3",)),
        (0.5, ("0.5",)),
        (True, ("True",)),
        (None, ()),
        ([], ()),
        ({"a": 1}, ()),
        ([{"a": 1}], ()),
    ],
)
def test_plain_answers_are_accepted_texts_and_structures_are_not(
    tmp_path: Path, answer: object, accepted: tuple[str, ...]
) -> None:
    (task,) = load_tasks(rows(tmp_path, {"question": "q", "answer": answer}))
    assert task.answer == answer
    assert task.accepted == accepted


def test_in_csv_a_json_list_or_object_is_read_and_an_empty_answer_is_none(tmp_path: Path) -> None:
    content = 'question,answer\nq1,"[""a"", ""b""]"\nq2,"{""k"": 1}"\nq3,\nq4,[not json\nq5,42\nq6,[NaN]\n'
    answers = [task.answer for task in load_tasks(written(tmp_path, content, "t.csv"))]
    assert answers == [["a", "b"], {"k": 1}, None, "[not json", "42", "[NaN]"]


@pytest.mark.parametrize("row", [{"answer": "a"}, {"question": ""}, {"question": " \n"}, {"question": 3}])
def test_a_row_without_a_question_names_file_line_and_fields(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"t\.jsonl:2: field 'question' must be a text, got .*map your field names"):
        load_tasks(rows(tmp_path, {"question": "q"}, row))


def test_a_mapped_answer_that_is_missing_is_an_error_and_an_unmapped_one_is_none(tmp_path: Path) -> None:
    path = rows(tmp_path, {"question": "q"})
    assert load_tasks(path)[0].answer is None
    with pytest.raises(DataError, match="no field 'target'"):
        load_tasks(path, fields={"answer": "target"})


def test_the_same_id_twice_names_both_lines(tmp_path: Path) -> None:
    path = rows(tmp_path, {"id": "a", "question": "q1"}, {"id": "b", "question": "q2"}, {"id": "a", "question": "q3"})
    with pytest.raises(DataError, match=r"t\.jsonl:3: id 'a' was used before, on line 1"):
        load_tasks(path)
    with pytest.raises(DataError, match="'1' was used before"):
        load_tasks(rows(tmp_path, {"id": 1, "question": "q1"}, {"id": "1", "question": "q2"}))
    with pytest.raises(DataError, match="stands twice"):
        TaskSet([Task(id="a", question="q"), Task(id="a", question="r")])


def test_without_ids_rows_are_named_by_content_so_that_their_order_does_not_matter(tmp_path: Path) -> None:
    one, two = {"question": "q", "answer": "a"}, {"question": "q", "answer": "b"}
    forward = load_tasks(rows(tmp_path, one, two, one))
    assert len({task.id for task in forward}) == 3, "equal rows are two tasks, and equal texts two groups"
    backward = load_tasks(rows(tmp_path, two, one, one))
    assert {(t.id, t.answer) for t in forward} == {(t.id, t.answer) for t in backward}


@pytest.mark.parametrize("identity", [True, 1.5, ["a"], {"a": 1}])
def test_an_id_is_a_text_or_a_whole_number(tmp_path: Path, identity: object) -> None:
    with pytest.raises(DataError, match="'id' must be a text or a whole number"):
        load_tasks(rows(tmp_path, {"id": identity, "question": "q"}))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"question": "q", "answer": NaN}', "NaN is no JSON value"),
        ('{"question": "q", "answer": -Infinity}', "-Infinity is no JSON value"),
        ('{"question": "q"', "not JSON"),
        ('["q", "a"]', "expected a JSON object, got list"),
        ('"q"', "expected a JSON object, got str"),
        ('{"question": "q", "answer": ' + "9" * 5_000 + "}", "not JSON"),
        ('{"question": "q", "answer": ' + "[" * 100_000, "not JSON"),
    ],
    ids=lambda value: value[:30],
)
def test_a_line_that_is_no_row_is_one_line_with_file_and_line(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        load_tasks(written(tmp_path, '{"question": "q0"}\n' + line + "\n"))
    assert "t.jsonl:2: " in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        load_tasks(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        load_tasks(tmp_path)
    with pytest.raises(DataError, match="not UTF-8 at byte 14"):
        load_tasks(written(tmp_path, b'{"question": "\xff"}'))
    for name in ("t.jsonl", "t.csv"):
        with pytest.raises(DataError, match="no rows"):
            load_tasks(written(tmp_path, "\n", name))
    with pytest.raises(ConfigError, match="'prompt'"):
        load_tasks(written(tmp_path, "{}"), fields={"prompt": "p"})


def test_a_fingerprint_changes_with_everything_that_can_change_the_outcome() -> None:
    task = Task(id="a", question="q", answer="x", metadata={"k": 1})
    others = [
        Task(id="b", question="q", answer="x", metadata={"k": 1}),
        Task(id="a", question="Q", answer="x", metadata={"k": 1}),
        Task(id="a", question="q", answer=["x"], metadata={"k": 1}),
        Task(id="a", question="q", answer="x"),
    ]
    assert len({task.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert task.fingerprint == Task(id="a", question="q", answer="x", metadata={"k": 1}).fingerprint
    assert TaskSet([task]).fingerprint != TaskSet(others[:1]).fingerprint


def test_a_hash_does_not_depend_on_the_order_of_keys_and_takes_any_text() -> None:
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    assert len(content_hash("\ud800")) == 20


def test_a_slice_of_a_task_set_is_a_task_set() -> None:
    tasks = TaskSet(Task(id=str(i), question="q") for i in range(4))
    assert isinstance(tasks[1:3], TaskSet)
    assert [task.id for task in tasks[1:3]] == ["1", "2"]
    assert tasks[-1].id == "3"
    assert repr(tasks) == "TaskSet(4 tasks)"


@pytest.mark.parametrize(
    ("identity", "said"), [("x" * 401, "has 401 characters, expected at most 400"), ("a\0b", "no database takes")]
)
def test_an_id_that_no_store_could_hold_is_refused(identity: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        TaskSet([Task(id=identity, question="q")])

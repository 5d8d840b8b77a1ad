"""Tasks from Parquet, data sets and objects within rows: reached by dotted names, chats and images included."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tokenprior.errors import DataError, MissingExtra
from tokenprior.load import MOST_IMAGE_BYTES, load_tasks
from tokenprior.task import Task

PNG = b"\x89PNG\r\n\x1a\n"
CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "first"},
    {"role": "assistant", "content": "yes?"},
    {"role": "user", "content": "second"},
]
ROWS: list[dict[str, Any]] = [
    {"prompt": CHAT, "reward_model": {"ground_truth": "42", "style": "rule"}, "split": "train"},
    {"prompt": [{"role": "user", "content": "third"}], "reward_model": {"ground_truth": "7", "style": "rule"}},
]
FIELDS = {"question": "prompt", "answer": "reward_model.ground_truth"}


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def plain(tasks: object) -> list[tuple[str, Any]]:
    return [(task.question, task.answer) for task in tasks]  # type: ignore[attr-defined]


def test_a_dotted_name_reaches_into_an_object_and_a_chat_asks_what_its_user_says_last(tmp_path: Path) -> None:
    tasks = load_tasks(written(tmp_path, *ROWS), fields=FIELDS)
    assert plain(tasks) == [("second", "42"), ("third", "7")]
    # Programs and functions are shown the metadata, and may not find the answer there.
    assert tasks[0].metadata == {"split": "train", "reward_model": {"style": "rule"}}


def test_a_name_with_a_dot_of_its_own_is_that_name(tmp_path: Path) -> None:
    path = written(tmp_path, {"a.b": "whole", "a": {"b": "inner"}, "answer": "x"})
    assert load_tasks(path, fields={"question": "a.b"})[0].question == "whole"


def test_a_dotted_answer_that_is_not_there_is_none_and_one_without_its_object_an_error(tmp_path: Path) -> None:
    (task,) = load_tasks(written(tmp_path, {"question": "q", "info": {"x": 1}}), fields={"answer": "info.gold"})
    assert task.answer is None
    with pytest.raises(DataError, match=r"t\.jsonl:1: no field 'gold\.text'"):
        load_tasks(written(tmp_path, {"question": "q"}), fields={"answer": "gold.text"})


@pytest.mark.parametrize("chat", [[], [{"role": "system", "content": "x"}], [{"role": "user", "content": None}], [3]])
def test_a_chat_in_which_no_user_speaks_is_no_question(tmp_path: Path, chat: list[Any]) -> None:
    with pytest.raises(DataError, match=r"t\.jsonl:1: field 'question' must be a text"):
        load_tasks(written(tmp_path, {"question": chat}))


def test_images_are_addresses_or_files_beside_the_tasks(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(PNG)
    data = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    web = "https://example.org/b.jpg"
    rows = [
        {"question": "q1", "images": ["pictures/a.png", web]},
        {"question": "q2", "images": "pictures/a.png"},
        {"question": "q3", "images": [data]},
        {"question": "q4", "images": None},
    ]
    tasks = load_tasks(written(tmp_path, *rows))
    assert [task.images for task in tasks] == [(data, web), (data,), (data,), ()]
    assert load_tasks(written(tmp_path, {"question": "q", "picture": web}), fields={"images": "picture"})[0].images


def test_images_that_cannot_be_sent_name_the_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(MOST_IMAGE_BYTES + 1)
    for images, words in (
        (["none.png"], "cannot be read: No such file"),
        (["notes.txt"], "no image by its name"),
        (["large.png"], "at most 20,000,000 are sent"),
        (7, "images must be addresses or files"),
        ([7], "images must be addresses or files"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            load_tasks(written(tmp_path, {"question": "q"}, {"question": "q", "images": images}))
        assert "t.jsonl:2: " in str(caught.value)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The loader of data sets, with a cache of its own."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return tmp_path


def test_parquet_is_read_as_rows(hub: Path) -> None:
    tasks = load_tasks(parquet(hub / "t.parquet", ROWS), fields=FIELDS)
    assert plain(tasks) == [("second", "42"), ("third", "7")]
    again = load_tasks(parquet(hub / "t.PARQUET", ROWS), fields=FIELDS)
    assert [task.id for task in again] == [task.id for task in tasks]
    assert isinstance(tasks[0], Task)


def test_a_data_set_in_a_folder_is_read_by_its_split(hub: Path) -> None:
    parquet(hub / "set" / "train.parquet", ROWS)
    parquet(hub / "set" / "test.parquet", ROWS[1:])
    assert plain(load_tasks(f"hub:{hub}/set", fields=FIELDS)) == [("second", "42"), ("third", "7")]
    assert plain(load_tasks(f"hub:{hub}/set#test", fields=FIELDS)) == [("third", "7")]


def test_what_cannot_be_loaded_is_one_line(hub: Path) -> None:
    parquet(hub / "set" / "train.parquet", ROWS)
    (hub / "bad.parquet").write_bytes(b"no parquet")
    for name in (f"hub:{hub}/set#validation", f"{hub}/bad.parquet", f"{hub}/none.parquet"):
        with pytest.raises(DataError, match="cannot be loaded") as caught:
            load_tasks(name, fields=FIELDS)
        assert "\n" not in str(caught.value)


def test_without_the_package_its_name_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"tokenprior\[hf\]"):
        load_tasks("hub:somebody/something#test")

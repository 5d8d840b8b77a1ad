"""Libraries come in and go out in every form, and come back the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprior.errors import ConfigError, DataError
from tokenprior.experience import Experience, Provenance
from tokenprior.exports import FORMATS, export, import_library
from tokenprior.exports import reference as reference_form
from tokenprior.library import Library
from tokenprior.prior import TokenPrior

HERE = Path(__file__).parent
FIXTURES = {"reference_math.yaml": 27, "reference_web.yaml": 46, "reference_flat.json": 20}


def entries(library: Library) -> list[tuple[str, str, str]]:
    return [(e.id, e.name, e.text) for e in library]


@pytest.mark.parametrize("name", FIXTURES)
def test_a_reference_file_is_read_whole(name: str) -> None:
    library = import_library(HERE / name)
    assert len(library) == FIXTURES[name]
    assert all(e.text and e.provenance.run == f"import:{name}" for e in library)
    assert all(e.provenance.operation == "Import" for e in library)


def test_titles_are_told_from_sentences() -> None:
    maths, web = import_library(HERE / "reference_math.yaml"), import_library(HERE / "reference_web.yaml")
    assert maths["G0"].name == "Parity first"
    assert maths["G1"].text.endswith(r"$\frac{a_0}{b} \neq \theta$ and a second way: [substitute] or {bound} it.")
    assert maths["G4"].name == "Remainders"
    assert maths["G13"].text == "When a count is done, do both:\n  1. count the complement,\n  2. compare the sums."
    assert (maths["G20"].name, maths["G20"].text[:4]) == ("圆与角", "当题目涉")
    assert web["G3"].name == ""
    assert web["G5"].text.startswith(
        "When a table gives a date, compare it with https://example.org/1: time zones [UTC]"
    )
    assert web["G7"].text.endswith("\n\nThen answer.")
    assert web["G30"].line.startswith('Say "unknown": When no page')


@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.parametrize(("form", "ending"), [("reference", "yaml"), ("flat", "json"), ("json", "json")])
def test_import_export_import_gives_the_same_library(tmp_path: Path, name: str, form: str, ending: str) -> None:
    library = import_library(HERE / name)
    path = tmp_path / f"out.{ending}"
    path.write_text(export(library, form), encoding="utf-8")
    again = import_library(path)
    assert entries(again) == entries(library)
    assert again.version == library.version
    assert export(again, form) == path.read_text(encoding="utf-8")


def test_our_json_keeps_provenance_and_the_next_id(tmp_path: Path) -> None:
    made = Experience(
        id="G3", name="N", text="When a, do b.", provenance=Provenance(run="r", step=2, groups=("t1",), parents=("G1",))
    )
    library = Library(experiences=(made,), next_number=9)
    path = tmp_path / "l.json"
    path.write_text(export(library, "json"), encoding="utf-8")
    assert import_library(path) == library


def test_the_text_is_the_prior_as_the_agent_sees_it_and_chat_its_message() -> None:
    library = import_library(HERE / "reference_math.yaml")
    prior = TokenPrior.of(library).text
    assert export(library, "text") == prior + "\n"
    assert json.loads(export(library, "chat")) == [{"role": "system", "content": prior}]


def test_an_empty_library_has_every_form(tmp_path: Path) -> None:
    made = {form: export(Library(), form) for form in FORMATS}
    assert made["text"] == ""
    assert json.loads(made["chat"]) == []
    assert json.loads(made["flat"]) == {}
    path = tmp_path / "l.json"
    for form in ("flat", "json"):
        path.write_text(made[form], encoding="utf-8")
        assert len(import_library(path)) == 0


def test_an_unknown_form_names_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="no export form 'xml': choose one of text, json, chat, flat, reference"):
        export(Library(), "xml")


TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Co"])
    | st.sampled_from('\n\x85\u2028\t:[]{}"\\$#-|>&*!%@`'),
    min_size=1,
    max_size=60,
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.lists(TEXTS.map(str.strip).filter(lambda text: bool(text) and "[G" not in text), min_size=1, max_size=4))
def test_any_text_survives_the_reference_form_and_flat_json(texts: list[str]) -> None:
    from tokenprior.exports import flat

    library = flat.loads({f"G{i}": text for i, text in enumerate(texts)}, run="r")
    assert [e.line for e in library] == texts
    assert entries(flat.loads(json.loads(flat.dumps(library)), run="r")) == entries(library)
    assert entries(reference_form.loads(reference_form.dumps(library), run="r")) == entries(library)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ":1: not JSON: "),
        ('{"G0": 3}', "expected ids such as 'G0' with a text each, got 'G0': 3"),
        ('{"first": "x"}', "got 'first'"),
        ('{"G0": "a", "[g0]": "b"}', "the same id twice"),
        ('{"experiences": [{"id": "G0"}]}', "not a library in tokenprior's JSON: KeyError 'text'"),
        ('{"experiences": [{"id": "one", "text": "a"}]}', "'one' is no id"),
        ('{"experiences": 5}', "not a library in tokenprior's JSON"),
        ('{"experiences": [{"id": "G0", "text": "a", "provenance": [1]}]}', "not a library"),
        ('{"G0": ' + "[" * 100_000, "not a library"),
        ('{"G0": ' + "9" * 5_000 + "}", "not a library"),
        ("agent: [1\n", "not YAML at line 2"),
        ("agent: \x07\n", "not YAML"),
        ("agent: 2026-99-99\n", "not a library"),
        ("agent:\n  instructions: none\n", "holds no experience such as `[G0]. Name: lesson`"),
        ("agent:\n  instructions: 3\n", "expected the reference's agent YAML"),
        ("", "expected the reference's agent YAML"),
        ("[1, 2]", "expected the reference's agent YAML"),
        ("agent:\n  instructions: |\n    [G0]. a: b\n    [G0]. c: d\n", "the same id twice"),
    ],
    ids=lambda value: value[:24],
)
def test_an_import_that_fails_is_one_line_that_names_the_file(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "lib.x"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        import_library(path)
    text = str(caught.value)
    assert str(path) in text
    assert words in text
    assert "\n" not in text


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: cannot be read: No such file"):
        import_library(tmp_path / "none.json")
    (tmp_path / "l.json").write_bytes(b'{"G0": "\xff"}')
    with pytest.raises(DataError, match="not UTF-8"):
        import_library(tmp_path / "l.json")

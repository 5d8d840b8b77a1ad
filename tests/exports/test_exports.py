"""Libraries come in and go out in every form, and come back the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokenprior.errors import ConfigError, DataError
from tokenprior.experience import Effect, Experience, Provenance
from tokenprior.exports import FORMATS, export, import_library, read
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
    with pytest.raises(ConfigError, match="no export form 'xml': choose one of text, json, markdown, "):
        export(Library(), "xml")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ":1: not JSON: "),
        ('{"G0": 3}', "expected ids such as 'G0' with a text each, got 'G0': 3"),
        ('{"first": 3}', "got 'first'"),
        ('{"first": "x"}', "holds no lessons of tokenprior: they stand behind"),
        ('{"system_prompt": "Be brief."}', "holds no lessons of tokenprior"),
        ('{"signature": {"instructions": "Be brief.", "fields": []}}', "holds no lessons of tokenprior"),
        ('[{"role": "system", "content": "Be brief."}]', "holds no lessons of tokenprior"),
        ("# Project\n\n- Use tabs.\n", "in free text lessons are not told from the rest"),
        ("# Lessons from experience\n\nNone yet.\n", "holds no lesson: each has a heading such as"),
        ("<!-- tokenprior:begin -->\n- [G0] a\n", "got begin in line 1: repair or delete these markers"),
        ("x\n<!-- tokenprior:end -->\n<!-- tokenprior:begin -->", "got end in line 2, begin in line 3"),
        ("<!-- tokenprior:begin -->\n- [G0] a b\n- [G0] c d\n<!-- tokenprior:end -->", "the same id twice"),
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
        ("[1, 2]", "expected a JSON list of chat messages"),
        ("[1, 2", "expected the reference's agent YAML"),
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


def test_a_form_can_be_named_where_content_could_be_two(tmp_path: Path) -> None:
    text = export(Library(experiences=(Experience(id="G0", text="Write <!-- tokenprior:begin --> first."),)), "text")
    path = tmp_path / "prior.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="begin in line 2"):
        import_library(path)
    assert export(import_library(path, "text"), "text") == text
    with pytest.raises(ConfigError, match="no export form 'prior'"):
        import_library(path, "prior")


def test_what_comes_in_is_bounded_and_hides_nothing(tmp_path: Path) -> None:
    lessons = {"G0": "When a,\u202edo b.", "G1": "x" * 4_001, "G2": "\x07", "G3": "Half \ud800."}
    path = tmp_path / "l.json"
    path.write_text(json.dumps(lessons), encoding="utf-8")
    reading = read(path)
    assert [(e.id, e.text) for e in reading.library] == [("G0", "When a, do b."), ("G3", "Half ?.")]
    assert reading.notes == (
        "G0: hidden characters or spaces at line ends were taken out",
        "G1 is left out: 4001 characters, at most 4000 are taken",
        "G2 is left out: it has no text",
        "G3: hidden characters or spaces at line ends were taken out",
    )
    path.write_bytes(b" " * 10_000_001)
    with pytest.raises(DataError, match="larger than the 10 MB"):
        read(path)


@pytest.mark.parametrize("figure", ["NaN", '"0.5"', "null", "-Infinity"])
def test_an_effect_that_is_no_measurement_does_not_come_in(tmp_path: Path, figure: str) -> None:
    effect = f'{{"mean": {figure}, "low": 0, "high": 1, "shrunk": 0, "tasks": 2, "rollouts": 4}}'
    path = tmp_path / "l.json"
    path.write_text(f'{{"experiences": [{{"id": "G0", "text": "When a, do b.", "effect": {effect}}}]}}')
    reading = read(path)
    assert reading.library["G0"].effect is None
    assert reading.notes == ("G0: its effect is left out, for it is no measurement",)


def test_forms_say_what_they_do_not_take() -> None:
    with pytest.raises(
        ConfigError, match="the form json takes no 'into'; those that do: system, section, cursor, skill, "
    ):
        export(Library(), "json", into="")
    with pytest.raises(
        ConfigError, match="the form section takes no 'instructions'; those that do: chat, system, dspy, gepa"
    ):
        export(Library(), "section", instructions="Be brief.")
    with pytest.raises(ConfigError, match="give either"):
        export(Library(), "system", into="a", instructions="b")


SECRET = Experience(
    id="G4",
    name="Ask",
    text="When lost, write to ann@corp.example.dev.",
    effect=Effect(mean=0.5, low=0.1, high=0.9, shrunk=0.4, tasks=4, rollouts=8),
    provenance=Provenance(run="r", reason="bob@corp.example.dev said so"),
)


@pytest.mark.parametrize("form", FORMATS)
def test_private_data_leaves_in_no_form_unless_it_is_masked_or_wanted(form: str) -> None:
    library = Library(experiences=(SECRET,))
    with pytest.raises(DataError) as caught:
        export(library, form)
    assert "in G4 (e-mail address, e-mail address in its reason): reword it, or" in str(caught.value)
    assert "ann" not in str(caught.value)
    made = export(library, form, private="mask")
    assert "corp.example.dev" not in made
    assert "[e-mail address]" in made
    assert "ann@corp.example.dev" in export(library, form, private="keep")
    with pytest.raises(ConfigError, match="private is 'hide': choose one of refuse, mask, keep"):
        export(library, form, private="hide")  # type: ignore[arg-type]


def test_a_masked_lesson_has_no_effect_known() -> None:
    made = json.loads(export(Library(experiences=(SECRET,)), "json", private="mask"))
    assert "effect" not in made["experiences"][0]
    assert made["experiences"][0]["provenance"]["reason"] == "[e-mail address] said so"


def test_half_of_a_character_does_not_stop_an_export(tmp_path: Path) -> None:
    library = Library(experiences=(Experience(id="G0", text="When \ud800, stop."),))
    for form in FORMATS:
        (tmp_path / form).write_text(export(library, form), encoding="utf-8")

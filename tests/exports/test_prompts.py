"""A prior in a prompt of the user's: a system prompt, messages, a DSPy state, a GEPA candidate; and out of it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tokenprior.errors import DataError
from tokenprior.experience import Experience
from tokenprior.exports import export, read
from tokenprior.library import Library
from tokenprior.prior import HEADING, TokenPrior

LIBRARY = Library(
    experiences=(
        Experience(id="G0", name="Plural forms", text="When a noun is given, reply with its plural form."),
        Experience(id="G3", text="When a table has units, keep them."),
    )
)
OTHER = Library(experiences=(Experience(id="G5", text="When lost, ask."),))
LONG = Library(experiences=(Experience(id="G1", text="When a count is done:\n  1. add,\n\n  2. compare."),))
PRIOR = TokenPrior.of(LIBRARY).text
OWN = "Be brief.\n\nAnswer in French."


def back(tmp_path: Path, text: str, form: str | None = None) -> Library:
    path = tmp_path / "file"
    path.write_bytes(text.encode())
    return read(path, form).library


@pytest.mark.parametrize("library", [LIBRARY, OTHER, LONG, Library()], ids=["two", "one", "of several lines", "empty"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_the_prior_stands_where_learning_put_it(library: Library, end: str) -> None:
    made = export(library, "system", into=OWN + end)
    assert made == TokenPrior.of(library).conditioned((OWN + end).removesuffix("\n")) + ("\n" if end else "")
    assert export(library, "system", into=made) == made
    assert export(library, "system", instructions=OWN) == TokenPrior.of(library).conditioned(OWN) + "\n"


def test_a_later_library_takes_the_place_of_the_earlier() -> None:
    made = export(LIBRARY, "system", into=OWN + "\n")
    assert export(OTHER, "system", into=made) == export(OTHER, "system", into=OWN + "\n")
    assert export(Library(), "system", into=made) == OWN + "\n"
    assert export(OTHER, "system", into=PRIOR) == TokenPrior.of(OTHER).text
    assert export(Library(), "system", into=PRIOR) == ""


@pytest.mark.parametrize("own", ["Be brief.\r\n", "Be brief.\r\n\r\nAnswer in French.\r\n"])
def test_line_ends_of_windows_stay(own: str) -> None:
    made = export(LIBRARY, "system", into=own)
    assert made == own + "\r\n" + PRIOR.replace("\n", "\r\n") + "\r\n"
    assert export(LIBRARY, "system", into=made) == made
    assert export(OTHER, "system", into=made).startswith(own + "\r\n" + HEADING)


@pytest.mark.parametrize("after", ["Never guess.", "\nNever guess.", "\n\n- [G9] a list", f"\n{HEADING}"])
def test_what_stands_behind_the_lessons_may_be_the_users_and_is_never_lost(after: str) -> None:
    with pytest.raises(DataError) as caught:
        export(OTHER, "system", into=f"{OWN}\n\n{PRIOR}\n{after}\n")
    assert str(caught.value).startswith(f"behind the lessons stands {after.strip()[:59]!r}"[:70])
    assert "\n" not in str(caught.value)


def test_lessons_of_several_lines_are_replaced_by_hand() -> None:
    made = export(LONG, "system", into=OWN)
    with pytest.raises(DataError, match=r"behind the lessons stands '1\. add,', which may be yours"):
        export(OTHER, "system", into=made)


@pytest.mark.parametrize("form", ["text", "system", "chat", "dspy", "gepa"])
def test_a_prompt_gives_its_lessons_back(tmp_path: Path, form: str) -> None:
    made = export(LIBRARY, form) if form == "text" else export(LIBRARY, form, instructions=OWN)
    library = back(tmp_path, made)
    assert library.version == LIBRARY.version
    assert {e.provenance.run for e in library} == {"import:file"}
    assert back(tmp_path, made, form) == library


def test_lines_that_may_not_be_a_lessons_are_told(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text(f"{PRIOR}\n\nNever guess.\n", encoding="utf-8")
    assert read(path).notes == ("G3 has 3 lines: see that all of them are its own",)


def test_a_dspy_state_keeps_everything_but_the_instructions(tmp_path: Path) -> None:
    state: dict[str, Any] = {
        "a.predict": {
            "traces": [],
            "train": [],
            "demos": [{"question": "é", "answer": 1.0}],
            "signature": {"instructions": OWN, "fields": [{"prefix": "Question:", "description": "${question}"}]},
            "lm": None,
        },
        "b": {
            "traces": [],
            "train": [],
            "demos": [],
            "signature": {"instructions": "Short.", "fields": []},
            "lm": None,
        },
        "metadata": {"dependency_versions": {"python": "3.11", "dspy": "3.4.1"}},
    }
    made = export(LIBRARY, "dspy", into=json.dumps(state))
    again = json.loads(made)
    assert again["a.predict"]["signature"].pop("instructions") == TokenPrior.of(LIBRARY).conditioned(OWN)
    assert again["b"]["signature"].pop("instructions") == TokenPrior.of(LIBRARY).conditioned("Short.")
    for name in ("a.predict", "b"):
        del state[name]["signature"]["instructions"]
    assert again == state
    assert export(LIBRARY, "dspy", into=made) == made
    assert back(tmp_path, made).version == LIBRARY.version


@pytest.mark.parametrize(
    ("form", "into", "words"),
    [
        ("dspy", "{", "line 1: not JSON"),
        ("dspy", "[" * 100_000, "not JSON: nested too deep"),
        ("dspy", "{}", "expected the state of a DSPy program"),
        ("dspy", "[]", "expected the state of a DSPy program"),
        ("dspy", '{"signature": {"instructions": 3}}', "expected the state of a DSPy program"),
        ("gepa", "Be brief.", "line 1: not JSON"),
        ("gepa", '{"a": 1}', "expected a GEPA candidate"),
        ("gepa", '["a"]', "expected a GEPA candidate"),
        ("gepa", "{}", "expected a component 'system_prompt' or one component alone, got none"),
        ("gepa", '{"a": "x", "b": "y"}', "expected a component 'system_prompt' or one component alone, got a, b"),
    ],
)
def test_a_file_that_cannot_be_merged_into_is_refused_in_one_line(form: str, into: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        export(LIBRARY, form, into=into)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gepa_candidate_keeps_its_other_components() -> None:
    own = {"tool": "Search.", "system_prompt": OWN}
    made = json.loads(export(LIBRARY, "gepa", into=json.dumps(own)))
    assert made == own | {"system_prompt": TokenPrior.of(LIBRARY).conditioned(OWN)}
    assert json.loads(export(LIBRARY, "gepa", into='{"only": "Be brief."}')) == {"only": f"Be brief.\n\n{PRIOR}"}


class Adapter:
    """A program for GEPA whose score is whether its prompt says "brief" twice."""

    propose_new_texts = None

    def __init__(self) -> None:
        self.seen: list[str] = []

    def evaluate(self, batch: list[str], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        from gepa import EvaluationBatch

        prompt = candidate["system_prompt"]
        self.seen.append(prompt)
        scores = [float(prompt.count("brief") > 1)] * len(batch)
        return EvaluationBatch(outputs=list(batch), scores=scores, trajectories=list(batch) if capture_traces else None)

    def make_reflective_dataset(
        self, candidate: dict[str, str], batch: Any, components: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        return {name: [{"Inputs": "x", "Generated Outputs": "y", "Feedback": "wrong"}] for name in components}


def test_gepa_starts_from_the_candidate(tmp_path: Path) -> None:
    import gepa

    candidate = json.loads(export(LIBRARY, "gepa", instructions="Be brief."))
    adapter, asked = Adapter(), []

    def reflect(prompt: Any) -> str:
        asked.append(str(prompt))
        return f"```\nBe brief, be brief.\n\n{PRIOR}\n```"

    result = gepa.optimize(
        seed_candidate=candidate,
        trainset=["a", "b", "c"],
        valset=["d", "e"],
        adapter=adapter,
        reflection_lm=reflect,
        max_metric_calls=20,
    )
    assert adapter.seen[0] == f"Be brief.\n\n{PRIOR}"
    assert PRIOR in asked[0]
    assert result.candidates[0] == candidate
    improved = json.dumps(result.best_candidate)
    assert back(tmp_path, improved).version == LIBRARY.version, "what GEPA kept of the lessons comes back"

"""with_prior and wrap: what is common to all wrappers."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tokenprior as tp
from tokenprior.library import Library

ASKED = [{"role": "system", "content": "You help."}, {"role": "user", "content": "What of dogs?"}]


def whole(library: Library) -> str:
    return tp.TokenPrior.of(library).text


def test_a_system_prompt_gets_the_prior_at_its_end(library: Library) -> None:
    assert tp.with_prior(library, "You help.") == f"You help.\n\n{whole(library)}"
    assert tp.with_prior(library, "") == whole(library)


def test_messages_come_back_as_new_ones_with_the_prior_in_the_system_prompt(library: Library) -> None:
    given = copy.deepcopy(ASKED)
    made = tp.with_prior(library, given)
    assert made == [{"role": "system", "content": f"You help.\n\n{whole(library)}"}, ASKED[1]]
    assert given == ASKED
    assert tp.with_prior(library, ASKED[1:]) == [{"role": "system", "content": whole(library)}, ASKED[1]]


def test_a_chat_agent_that_learns_sends_the_same_words_in_the_same_place(library: Library) -> None:
    import asyncio

    from tokenprior.task import Task

    for instructions in ("You help.", ""):
        model = tp.ScriptedModel(["fine"])
        task = Task(id="t", question="What of dogs?")
        agent = tp.ChatAgent(model=model, instructions=instructions)
        asyncio.run(agent.attempt(task, tp.TokenPrior.of(library), phase="rollout", step=0, index=0))
        sent = [{"role": message.role, "content": message.content} for message in model.requests[0].messages]
        bare = [{"role": "system", "content": instructions}] if instructions else []
        assert tp.with_prior(library, [*bare, {"role": "user", "content": task.question}]) == sent


def test_the_prior_is_added_once(library: Library) -> None:
    assert tp.with_prior(library, tp.with_prior(library, "You help.")) == tp.with_prior(library, "You help.")
    once = tp.with_prior(library, ASKED)
    assert tp.with_prior(library, once) == once


def test_an_empty_library_changes_nothing() -> None:
    assert tp.with_prior(Library(), "You help.") == "You help."
    assert tp.with_prior(Library(), ASKED) == ASKED


def test_a_library_may_be_a_file_or_what_an_export_gives(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "library.json"
    path.write_text(tp.export(library, "json"))
    expected = tp.with_prior(library, "You help.")
    for form in (path, str(path), json.loads(path.read_text())):
        assert tp.with_prior(form, "You help.") == expected


def test_a_rendering_chooses_lessons_for_the_question(library: Library) -> None:
    rendering = tp.Rendering(relevant=1)
    made = tp.with_prior(library, ASKED, rendering=rendering)
    assert made[0]["content"].endswith("\n[G0] When asked about dogs, be brief.")
    cats = tp.with_prior(library, ASKED, rendering=rendering, question="And of cats?")
    assert cats[0]["content"].endswith(":\n[G1] When asked about cats, be kind.")
    assert (
        tp.with_prior(library, "", rendering=rendering, question="cats") == cats[0]["content"][len("You help.\n\n") :]
    )
    assert tp.with_prior(library, "You help.", rendering=rendering) == tp.with_prior(library, "You help.")


@pytest.mark.parametrize(
    ("library", "given", "words"),
    [
        (7, "", "library: expected a Library, the path of a library file, or what"),
        ("nowhere.json", "", "nowhere.json: cannot be read"),
        ({"hello": 1}, "", "not a library"),
        (Library(), {"role": "user"}, "expected a text, or a list of messages"),
        (Library(), ["hello"], "expected a text, or a list of messages"),
        (Library(), [], "expected at least one"),
    ],
)
def test_a_mistake_is_told_in_one_line(library: Any, given: Any, words: str) -> None:
    with pytest.raises(tp.TokenpriorError) as error:
        tp.with_prior(library, given)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_message_that_can_take_no_prior_is_named(library: Library) -> None:
    with pytest.raises(tp.TokenpriorError, match=r"messages\[0\].content must be a text or a list of parts"):
        tp.with_prior(library, [{"role": "system", "content": 7}])


@pytest.mark.parametrize("thing", [{}, None, "gpt-5", tp, lambda: None, tp.Library])
def test_an_object_of_no_known_kind_is_refused_with_what_is_accepted(thing: Any, library: Library) -> None:
    with pytest.raises(
        tp.TokenpriorError, match="expected a client of openai or anthropic, a model or an agent"
    ) as error:
        tp.wrap(thing, library)
    assert "\n" not in str(error.value)


def test_a_rendering_of_another_type_is_refused(library: Library) -> None:
    with pytest.raises(tp.TokenpriorError, match=r"rendering: expected a tokenprior\.Rendering, got int"):
        tp.with_prior(library, "", rendering=5)  # type: ignore[call-overload]


def test_no_framework_is_imported_before_an_object_of_it_is_wrapped() -> None:
    program = (
        "import sys, tokenprior as tp; from tokenprior.library import Library; tp.with_prior(Library(), ''); "
        "theirs = {'pydantic_ai', 'agents', 'langchain_core', 'dspy', 'openai', 'anthropic'}; "
        "print(sorted(theirs & set(sys.modules))); "
        "import openai; tp.wrap(openai.OpenAI(api_key='k'), Library()); "
        "print(sorted(theirs & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.splitlines() == ["[]", "['openai']"]

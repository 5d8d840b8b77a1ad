"""Placement: the prior stands in the same place of every API, once, and nothing else of a request changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tokenprior.placement import Api, Edit, conditioned, placed, user_texts
from tokenprior.prior import TokenPrior

PRIOR = TokenPrior(text="Lessons from experience. Follow those:\n[G0] Be brief.")
TEXT = PRIOR.text
USER = {"role": "user", "content": "What is it?"}


@pytest.mark.parametrize(
    ("api", "body", "expected"),
    [
        ("chat", {"messages": [USER]}, {"messages": [{"role": "system", "content": TEXT}, USER]}),
        (
            "chat",
            {"messages": [USER, {"role": "developer", "content": "Add.", "name": "boss"}], "n": 2},
            {"messages": [USER, {"role": "developer", "content": f"Add.\n\n{TEXT}", "name": "boss"}], "n": 2},
        ),
        (
            "chat",
            {"messages": [{"role": "system", "content": [{"type": "text", "text": "Add."}]}, USER]},
            {
                "messages": [
                    {
                        "role": "system",
                        "content": [{"type": "text", "text": "Add."}, {"type": "text", "text": f"\n\n{TEXT}"}],
                    },
                    USER,
                ]
            },
        ),
        ("chat", {"messages": [{"role": "system"}, 3]}, {"messages": [{"role": "system", "content": TEXT}, 3]}),
        (
            "chat",
            {"messages": [{"role": "system", "content": []}]},
            {"messages": [{"role": "system", "content": [{"type": "text", "text": TEXT}]}]},
        ),
        (
            "responses",
            {"instructions": "Add.", "input": "What?"},
            {"instructions": f"Add.\n\n{TEXT}", "input": "What?"},
        ),
        ("responses", {"input": "What?"}, {"input": "What?", "instructions": TEXT}),
        ("responses", {"input": "What?", "instructions": None}, {"input": "What?", "instructions": TEXT}),
        ("responses", {"prompt": {"id": "pmpt_1"}}, {"prompt": {"id": "pmpt_1"}, "instructions": TEXT}),
        (
            "responses",
            {"input": [USER, {"role": "system", "content": [{"type": "input_text", "text": "Add."}]}]},
            {
                "input": [
                    USER,
                    {
                        "role": "system",
                        "content": [
                            {"type": "input_text", "text": "Add."},
                            {"type": "input_text", "text": f"\n\n{TEXT}"},
                        ],
                    },
                ]
            },
        ),
        ("messages", {"messages": [USER]}, {"messages": [USER], "system": TEXT}),
        (
            "messages",
            {"system": "Add.", "messages": [USER]},
            {"system": f"Add.\n\n{TEXT}", "messages": [USER]},
        ),
        (
            "messages",
            {"system": [{"type": "text", "text": "Add.", "cache_control": {"type": "ephemeral"}}]},
            {
                "system": [
                    {"type": "text", "text": "Add.", "cache_control": {"type": "ephemeral"}},
                    {"type": "text", "text": f"\n\n{TEXT}"},
                ]
            },
        ),
    ],
)
def test_the_prior_stands_at_the_end_of_the_first_system_message(
    api: Api, body: dict[str, Any], expected: dict[str, Any]
) -> None:
    before = copy.deepcopy(body)
    made = conditioned(api, body, PRIOR)
    assert made == expected
    assert body == before, "the body that was given stays as it was"
    assert placed(api, made, PRIOR) is None, "a prior that stands there already is not added again"
    assert conditioned(api, made, PRIOR) is made


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
def test_an_empty_prior_changes_nothing(api: Api) -> None:
    body = {"messages": [USER], "input": "What?"}
    assert conditioned(api, body, TokenPrior()) is body


def test_an_edit_names_the_place_and_what_comes_to_stand_there() -> None:
    body = {"messages": [{"role": "system", "content": "Add."}]}
    assert placed("chat", body, PRIOR) == Edit(path=("messages", 0, "content", 4), value=f"\n\n{TEXT}", insert=True)


@pytest.mark.parametrize(
    ("api", "body", "words"),
    [
        ("chat", [], "expected a JSON object, got list"),
        ("chat", {}, "a list of `messages`"),
        ("chat", {"messages": []}, "a list of `messages`"),
        ("chat", {"messages": [USER, {"role": "system", "content": 3}]}, r"messages\[1\]\.content must be a text or"),
        ("responses", {"instructions": ["Add."]}, r"instructions must be a text$"),
        ("responses", {"input": [{"role": "developer", "content": {}}]}, r"input\[0\]\.content must be a text or"),
        ("messages", {"system": 3}, r"system must be a text or a list of parts"),
    ],
)
def test_a_malformed_body_is_refused_with_the_place(api: Api, body: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        conditioned(api, body, PRIOR)


@pytest.mark.parametrize(
    ("api", "body", "said"),
    [
        ("chat", {"messages": [USER, {"role": "assistant", "content": "No."}, USER | {"content": "And?"}]}, 2),
        ("chat", {"messages": [USER | {"content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]}, 1),
        ("responses", {"input": "What?"}, 1),
        ("responses", {"input": [USER | {"content": [{"type": "input_text", "text": "a"}]}]}, 1),
        ("responses", {"input": [{"type": "function_call_output", "output": "3"}]}, 0),
        ("messages", {"messages": [USER | {"content": [{"type": "tool_result", "content": "3"}]}]}, 0),
        ("chat", {"messages": [3, {"role": "user"}, {"role": "user", "content": ""}]}, 0),
        ("chat", [], 0),
    ],
)
def test_what_the_user_says_is_read_message_by_message(api: Api, body: Any, said: int) -> None:
    assert len(user_texts(api, body)) == said

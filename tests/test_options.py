"""Options of a config against the fields of a class: known, there, of the right type, or one line that says so."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from tokenprior.errors import ConfigError
from tokenprior.options import checked, kind_of, typed


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A member of a family."""

    name: str
    count: int = 3
    words: tuple[str, ...] = ()
    level: Literal["low", "high"] = "low"
    share: float = 0.5
    maybe: int | None = None
    folder: Path = Path()
    _made: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Bare:
    """Has none."""


def test_given_options_become_arguments_and_the_rest_keeps_its_default() -> None:
    made = Kind(**checked({"kind": "k", "name": "a", "words": ["x", "y"], "level": "high"}, Kind, "tool k"))
    assert made == Kind(name="a", words=("x", "y"), level="high")


def test_what_no_config_gives_is_added_where_the_class_has_room_for_it() -> None:
    live = {"folder": Path("/here"), "model": object()}
    assert checked({"name": "a"}, Kind, "tool k", live=live) == {"name": "a", "folder": Path("/here")}
    assert checked({}, Bare, "tool b", live=live) == {}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "a", "cuont": 2}, "tool k: unknown option 'cuont' (got 2); expected one of name, count"),
        ({"name": "a", "cuont": 2}, "did you mean 'count'?"),
        ({"count": 2}, "tool k: name is missing; expected a value for it"),
        ({"name": 7}, "tool k: name is 7: "),
        ({"name": "a", "count": "2"}, "tool k: count is '2': "),
        ({"name": "a", "count": True}, "tool k: count is True: "),
        ({"name": "a", "count": 2.5}, "tool k: count is 2.5: "),
        ({"name": "a", "words": "x"}, "tool k: words is 'x': "),
        ({"name": "a", "words": ["x", 1]}, "tool k: words is ('x', 1): "),
        ({"name": "a", "level": "middle"}, "tool k: level is 'middle': "),
        ({"name": "a", "count": None}, "tool k: count is None: "),
        ({"name": "a", "folder": "/x"}, "tool k: unknown option 'folder'"),
        ({"name": "a", "_made": []}, "tool k: unknown option '_made'"),
        ({"name": "a", 7: 1}, "tool k: unknown option 7"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(spec: dict[Any, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(spec, Kind, "tool k", live={"folder": Path()})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_kind_without_options_says_that_there_are_none() -> None:
    with pytest.raises(ConfigError, match=r"unknown option 'x' \(got 1\); expected one of none"):
        checked({"x": 1}, Bare, "tool b")


def test_whole_numbers_are_numbers_and_nothing_is_something_where_it_may_be() -> None:
    assert checked({"name": "a", "share": 1, "maybe": None}, Kind, "k") == {"name": "a", "share": 1.0, "maybe": None}
    assert typed("k", "maybe", 4, int | None) == 4


def test_free_options_are_taken_as_they_are() -> None:
    assert checked({"name": 7}, Kind, "tool k", free={"name"}) == {"name": 7}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, "agent.tools: kind is missing; expected one of python, search"),
        ({"kind": "pyhton"}, "kind is 'pyhton', expected one of python, search; did you mean 'python'?"),
        ({"kind": 3}, "kind is 3, expected one of python, search"),
        ({"kind": ["python"]}, "kind is ['python'], expected one of"),
        ({"kind": None}, "kind is None, expected one of"),
    ],
)
def test_an_unknown_kind_names_the_nearest(spec: dict[str, Any], words: str) -> None:
    kinds = {"python": Kind, "search": Bare}
    assert kind_of({"kind": "python"}, kinds, "agent.tools") == "python"
    with pytest.raises(ConfigError) as caught:
        kind_of(spec, kinds, "agent.tools")
    assert words in str(caught.value)

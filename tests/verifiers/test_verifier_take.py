"""Where in an output the answer is read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprior.errors import ConfigError
from tokenprior.verifiers.take import NotRead, Take, last_boxed


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("take", "output", "found"),
    [
        ("all", "  a\nb \n", "a\nb"),
        ("all", " \n ", None),
        ("last_line", "first\nlast\r\n\n", "last"),
        ("first_line", "\n first \nlast", "first"),
        ("after:Answer:", "Answer: 3\nno\nAnswer: 42\nbye", "42"),
        ("after:Answer:", "Answer:\n42", None),
        ("after:Answer:", "nothing", None),
        ("boxed", r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("boxed", r"\boxed{1} then \boxed{2", "1"),
        ("boxed", r"\boxed {\{2,1\}}", r"\{2,1\}"),
        ("tag:answer", "<answer>1</answer> <answer>162</answer>", "162"),
        ("tag:answer", "<ANSWER>\n7\n</ANSWER>", "7"),
        ("tag:answer", "<answer>7", None),
        ("last_number", "A: 26 eggs, 18 dollars.", "18"),
        ("last_number", "none", None),
        (r"regex:x=(\d+)", "x=1 x=22", "22"),
        (r"regex:[a-z]+", "abc DEF", "abc"),
        (r"regex:x=(\d+)", "y=1", None),
        ("fence", "```sql\nSELECT 1\n```\nand\n```\nSELECT 2\n```", "SELECT 2"),
        ("fence", "```SELECT 3```", "SELECT 3"),
        ("fence", "```python\nprint(1)\n", "print(1)"),
        ("fence", "no block", None),
    ],
)
async def test_reads_the_place(take: str, output: str, found: str | None) -> None:
    assert await Take.parse(take).read(output) == found


@pytest.mark.parametrize("text", ["", "lastline", "after:", "after", "tag: ", "all:x", "regex:(", "last_line:3"])
def test_a_wrong_place_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        Take.parse(text)
    assert "take" in str(error.value)


def test_a_wrong_place_is_answered_with_the_places_there_are() -> None:
    with pytest.raises(ConfigError, match="last_line, last_number, boxed, fence, after:MARKER"):
        Take.parse("lastline")


@pytest.mark.anyio
async def test_a_pattern_without_end_is_given_up() -> None:
    with pytest.raises(NotRead, match="took longer than 2 s"):
        await Take.parse("regex:(a+)+$").read("a" * 40 + "b")


@pytest.mark.parametrize("text", ["all", "after:Answer:", "regex:a:b", "tag:x"])
def test_the_written_form_comes_back(text: str) -> None:
    assert str(Take.parse(text)) == text
    assert Take.parse(text).words


@given(st.text(alphabet="\\boxed{} a`<>/\n1"))
@settings(max_examples=200)
def test_no_output_makes_it_raise(output: str) -> None:
    last_boxed(output)
    for place in ("all", "last_line", "first_line", "after:a", "boxed", "tag:a", "last_number", "fence"):
        found = Take.parse(place)._find(output)
        assert found is None or found == found.strip() != ""

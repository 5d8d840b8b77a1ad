"""Splice: a change to the bytes of a request says what the change to its value says, and nothing else changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprior.placement import Api, Edit, conditioned, placed
from tokenprior.prior import TokenPrior
from tokenprior.serve.proxy.splice import JsonBody

texts = st.text(alphabet=st.characters(codec="utf-8"), max_size=12) | st.sampled_from(["", '"', "\\", "ü\u2028", "{[,"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
parts = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": texts}, optional={"x": values}), max_size=3)
message = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
        "content": st.none() | texts | parts,
    },
    optional={"name": texts, "x": values},
)
messages = st.lists(message, min_size=1, max_size=4)
bodies: dict[Api, st.SearchStrategy[dict[str, Any]]] = {
    "chat": st.fixed_dictionaries(
        {"messages": messages}, optional={"model": texts, "temperature": values, "ü": values}
    ),
    "responses": st.fixed_dictionaries(
        {"input": texts | messages}, optional={"instructions": st.none() | texts, "model": texts, "x": values}
    ),
    "messages": st.fixed_dictionaries(
        {"messages": messages}, optional={"system": st.none() | texts | parts, "x": values}
    ),
}
requests = st.sampled_from(list(bodies)).flatmap(lambda api: st.tuples(st.just(api), bodies[api]))
priors = st.builds(TokenPrior, text=texts.filter(bool))
written = st.fixed_dictionaries(
    {
        "ensure_ascii": st.booleans(),
        "indent": st.sampled_from([None, 0, 3]),
        "separators": st.sampled_from([(",", ":"), (" ,\t", "\r\n:  ")]),
    }
)


def read(raw: bytes) -> Any:
    return json.loads(raw)


@given(request=requests, prior=priors, how=written, around=st.sampled_from(["", " ", "\n\t"]))
def test_the_bytes_say_what_the_value_says_and_nothing_else_changes(
    request: tuple[Api, dict[str, Any]], prior: TokenPrior, how: dict[str, Any], around: str
) -> None:
    api, body = request
    raw = (around + json.dumps(body, **how) + around).encode("utf-8")
    edit = placed(api, body, prior)
    read_body = JsonBody.read(raw)
    assert placed(api, read_body.value, prior) == edit, "what was read is enough to find the place"
    spliced = read_body.spliced([edit] if edit else [])
    assert read(spliced) == conditioned(api, read(raw), prior)
    if edit is not None and edit.insert:
        # One run of new bytes; all before it and all behind it is as it was.
        added = len(spliced) - len(raw)
        assert any(spliced[:at] + spliced[at + added :] == raw for at in range(len(raw) + 1))


def test_several_changes_go_in_at_once() -> None:
    raw = b'{"model":"m@math","messages":[{"role":"system","content":null}],"n":1.50}'
    edits = [
        Edit(path=("model",), value="m", insert=False),
        Edit(path=("messages", 0, "content"), value="\ud800ü", insert=False),
    ]
    expected = rb'{"model":"m","messages":[{"role":"system","content":"\ud800\u00fc"}],"n":1.50}'
    assert JsonBody.read(raw).spliced(edits) == expected


@pytest.mark.parametrize(
    "kept",
    [b'"n":1.50', b'"big":' + b"9" * 5_000, b'"e":1E+400', b'"s":"\\u00fc\\/\\ud83d"', b'"k":{"a":1,"a":2}', b'"t":-0'],
)
def test_no_spelling_of_other_members_is_lost(kept: bytes) -> None:
    raw = b'{ "messages" : [ {"role":"user","content":"a"} ] , ' + kept + b" }"
    edit = Edit(path=("messages", 0), value={"role": "system", "content": "b"}, insert=True)
    expected = b'{ "messages" : [ {"role": "system", "content": "b"}, {"role":"user","content":"a"} ] , ' + kept + b" }"
    assert JsonBody.read(raw).spliced([edit]) == expected


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"3",
        b"{",
        b'{"a"',
        b'{"a":}',
        b'{"a":1,}',
        b'{"a":1 "b":2}',
        b"{1:2}",
        b'{"a":1}}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":"\x01"}',
        b'{"a":"\\x"}',
        b'{"a":1,"a":2}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":"\xff"}',
        '{"a":1}'.encode("utf-16"),
        b'{"a":' + b"[" * 100_000,
        b'{"a":1}\x00',
    ],
)
def test_what_is_no_plain_json_object_is_not_read(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # several kinds, of one class
        JsonBody.read(raw)


def test_a_member_given_twice_on_the_way_is_not_guessed_at() -> None:
    body = JsonBody.read(b'{"messages":[{"role":"system","content":"a","content":"b"}]}')
    with pytest.raises(ValueError, match="given twice"):
        body.spliced([Edit(path=("messages", 0, "content", 1), value="c", insert=True)])


@given(raw=st.binary(max_size=30) | st.text(alphabet='{}[]",: \\u0a1.e-tfn', max_size=30).map(str.encode))
def test_reading_raises_nothing_else_and_reads_what_a_parser_reads(raw: bytes) -> None:
    try:
        body = JsonBody.read(raw)
    except ValueError:
        return
    assert json.loads(raw).keys() == body.value.keys()
    assert body.spliced([]) == raw

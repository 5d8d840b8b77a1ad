"""Laws of reading replies: whatever a learning model sends, what is well-formed survives and nothing is lost unseen."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprior.advantage import parse_lessons
from tokenprior.operation import Add, Delete, Drop, Keep, Merge, Modify, Operation, parse_operations, to_json
from tokenprior.reply import MAX_DEPTH, Malformed, parse_json

LAW = settings(max_examples=1_000, deadline=None, derandomize=True, database=None)

LATEX = [
    r"\frac{1}{2}", r"\theta", r"\nu", r"\beta", r"\right)", r"\text{if} x", r"\boxed{7}", r"\times", r"\rho",
    r"\alpha", r"\underline{x}", r"\bigcup", r"\tan x", r"\neq", r"\forall", r"\bmod 7", r"\notin", r"\rightarrow",
    r"\upsilon",
]  # fmt: skip
WORDS = [
    "when", "the", "sum", "is", "odd,", "check", "it's", 'the "last"', "[G3]", "{x}", "a // b", "# 3", "x, ]", "`code`",
    "naïve", "数", "→", "1:", "/* no */", "\U0001f600", "50%", "(i)", "}", "[", "C:\\\\d".replace("\\\\", "/"),
]  # fmt: skip
WILD = [
    *LATEX, *WORDS, "```json", "```", "[", "]", "{", "}", '"', "'", ",", ":", "\\", "\\u12", "\\ud800", "\ud800",
    "\x00", "//", "/*", "*/", "#", "\n", '"op"', '"Add"', "'op': 'Delete'", '"id": 3', '"lessons": [1,', "null", "NaN",
    "1e999",
    '{"operations": [', '{"op": "Add", "text": "When a, do b."}', '{"lesson": "When a, do b."}', "9" * 5_000, "\u2028",
]  # fmt: skip

texts = st.lists(st.sampled_from(WORDS + LATEX), min_size=3, max_size=8).map(" ".join)
plain = st.lists(st.sampled_from(["When", "odd", "check", "sums", "naïve", "数"]), min_size=1, max_size=3).map(" ".join)
ids = st.integers(0, 40).map(lambda number: f"G{number}")
numbers = st.lists(st.integers(1, 99), max_size=3, unique=True).map(tuple)
operations = st.one_of(
    st.builds(Add, name=plain, text=texts, reason=texts, lessons=numbers),
    st.builds(Modify, id=ids, name=plain, text=texts, reason=texts, lessons=numbers),
    st.builds(
        Merge,
        ids=st.lists(ids, min_size=2, max_size=4, unique=True).map(tuple),
        name=plain,
        text=texts,
        reason=texts,
        lessons=numbers,
    ),
    st.builds(Delete, id=ids, reason=texts),
    st.builds(Keep, id=ids, reason=texts, lessons=numbers),
)


def as_a_model_writes(operation: Operation, rng: random.Random) -> dict[str, Any]:
    """The object of an operation, as models vary it."""
    value = to_json(operation)
    value["op"] = rng.choice([str.lower, str.upper, str.title, str])(value["op"])
    vary = [str, lambda g: f"[{g}]", str.lower, lambda g: g[1:], lambda g: int(g[1:])]
    if "id" in value:
        value["id"] = rng.choice(vary)(value["id"])
    if "ids" in value:
        value["ids"] = [rng.choice(vary)(one) for one in value["ids"]]
    if "lessons" in value:
        value["lessons"] = rng.choice([list, lambda n: [f"L{i}" for i in n], lambda n: ", ".join(map(str, n))])(
            value["lessons"]
        )
    return dict(rng.sample(list(value.items()), len(value)))


def encoded(value: object, rng: random.Random) -> str:
    """JSON text, pretty or not, its LaTeX with one backslash or two."""
    text = json.dumps(value, indent=rng.choice([None, 1, 2]), ensure_ascii=rng.random() < 0.5)
    return text.replace("\\\\", "\\") if rng.random() < 0.5 else text


def damaged(made: list[Operation], rng: random.Random) -> str:
    """A reply in one of the shapes that learning models send."""
    objects = [as_a_model_writes(operation, rng) for operation in made]
    wrapped: list[Any] = [
        objects,
        {"operations": objects},
        {"thoughts": "so [1] it is", "Operations": objects},
        {"result": {"operations": objects, "n": len(objects)}},
        {f"o{i}": value for i, value in enumerate(objects)},
        [[value] for value in objects],
        [{"operations": objects}],
    ]
    text = encoded(rng.choice(wrapped), rng)
    if rng.random() < 0.2:
        text = rng.choice(["\n", "\n\n", " and\n"]).join(encoded(value, rng) for value in objects)
    if rng.random() < 0.4 and text[-1] in "]}":
        text = text[:-1] + rng.choice([",", ", \n", " // that's all [of \"it\n", " /* {done */ "]) + text[-1]
    if rng.random() < 0.4:
        text = rng.choice(["```json\n{}\n```", "```\n{}```", "```JSON\n{}\n```\n"]).replace("{}", text)
    if rng.random() < 0.4:
        before = [
            "I keep [G3] as it is.\n",
            "By [1] and $x^{2}$: ",
            "First: ```json\n[]\n``` Better:\n",
            "It's \"so:\n",
        ]
        text = rng.choice(before) + text
    if rng.random() < 0.4:
        text += rng.choice(["\nDone.", "\nI hope [this] helps {you}!", "\n[end]", "\n\n---\nNote: it's final."])
    return text


@LAW
@given(st.lists(operations, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_every_operation_of_a_lightly_damaged_reply_survives_with_its_exact_text(
    made: list[Operation], rng: random.Random
) -> None:
    reply = damaged(made, rng)
    parsed, drops = parse_operations(reply)
    assert parsed == made, reply
    assert all(drop.reason for drop in drops)


@LAW
@given(st.lists(operations, min_size=1, max_size=4), st.randoms(use_true_random=False), st.floats(0, 1))
def test_a_reply_that_breaks_off_keeps_what_is_whole_and_never_half_a_text(
    made: list[Operation], rng: random.Random, share: float
) -> None:
    pieces = [json.dumps(to_json(operation)) for operation in made]
    opening = rng.choice(["[", '{"operations": [', "```json\n["])
    whole = opening + ", ".join(pieces) + "]"
    cut = int(share * len(whole))
    complete = sum(len(opening + ", ".join(pieces[: n + 1])) <= cut for n in range(len(pieces)))
    try:
        parsed, drops = parse_operations(whole[:cut])
    except Malformed:
        assert complete == 0, whole[:cut]
        return
    assert parsed[:complete] == made[:complete]
    assert len(parsed) <= complete + 1
    said = {operation.text for operation in made if not isinstance(operation, Delete | Keep)}
    assert all(o.text in said for o in parsed if not isinstance(o, Delete | Keep)), whole[:cut]
    assert all(drop.reason for drop in drops)


@LAW
@given(
    st.lists(operations, min_size=1, max_size=4), st.sampled_from(["{'x': 1}", '"G3"', "7", "null", '{"op": "Add"}'])
)
def test_what_is_dropped_is_named_and_costs_nothing_else(made: list[Operation], junk: str) -> None:
    pieces = [json.dumps(to_json(operation)) for operation in made]
    parsed, drops = parse_operations("[" + ",\n".join([pieces[0], junk, *pieces[1:]]) + "]")
    assert parsed == made
    assert len(drops) == 1
    assert drops[0].reason
    assert drops[0].what


@LAW
@given(st.lists(st.sampled_from(WILD), max_size=40), st.sampled_from(["", " ", "\n"]))
def test_no_reply_raises_anything_but_malformed(pieces: list[str], between: str) -> None:
    reply = between.join(pieces)
    for parse in (parse_operations, lambda text: parse_lessons(text, limit=2), lambda text: (parse_json(text), [])):
        try:
            _, drops = parse(reply)
        except Malformed:
            continue
        assert all(isinstance(drop, Drop) and drop.reason for drop in drops)


@LAW
@given(st.text(max_size=300))
def test_no_text_at_all_raises_anything_but_malformed(reply: str) -> None:
    for parse in (parse_operations, lambda text: parse_lessons(text, limit=2), parse_json):
        try:
            parse(reply)
        except Malformed:
            continue


@settings(LAW, max_examples=300)
@given(st.lists(texts, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_every_lesson_of_a_lightly_damaged_reply_survives_with_its_exact_text(
    made: list[str], rng: random.Random
) -> None:
    key = rng.choice(["lesson", "text", "Lesson", "content"])
    objects: list[Any] = [{"name": "N", key: text} for text in made]
    shape = rng.choice(["list", "wrapper", "texts", "lines"])
    if shape == "lines":
        reply = "\n".join(encoded(value, rng) for value in objects)
    else:
        wrapped = {"difference": "it [differs]", "lessons": made if shape == "texts" else objects}
        reply = encoded(objects if shape == "list" else wrapped, rng)
    if rng.random() < 0.5:
        reply = f"So [1]:\n```json\n{reply}\n```\nThat's it."
    lessons, drops = parse_lessons(reply, limit=10)
    assert [lesson.text for lesson in lessons] == made, reply
    assert drops == []


@pytest.mark.parametrize(
    "reply",
    [
        "[" * 100_000,
        '{"a":' * 20_000,
        "[" * 960 + "]" * 960,
        '[{"op":' * 300 + "1" + "}]" * 300,
        "[{]}" * 25_000,
        "['" * 30_000,
        '["' * 30_000,
        '"' * 100_000,
        '[{"op":"Add","text":"' + "x " * 50_000,
        "[/*" * 30_000,
    ],
    ids=lambda reply: reply[:9],
)
def test_a_model_in_a_loop_costs_a_moment_and_a_malformed_reply(reply: str) -> None:
    with pytest.raises(Malformed):
        parse_operations(reply)


def test_a_long_reply_is_read_to_its_limit() -> None:
    adds = [{"op": "Add", "text": f"When {i}, do it."} for i in range(2_000)]
    parsed, drops = parse_operations(json.dumps(adds))
    assert len(parsed) == 2_000
    assert not drops


def test_nesting_without_end_costs_its_own_operation_alone() -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH * 2):
        deep = [deep]
    good = {"op": "Add", "text": "When a, do b."}
    parsed, drops = parse_operations(json.dumps([good, {"op": "Delete", "id": deep}]))
    assert [type(operation) for operation in parsed] == [Add]
    assert "no id" in drops[0].reason


def test_halves_of_surrogate_pairs_and_nul_never_reach_a_library() -> None:
    reply = '[{"op":"Add","name":"\\u0000N","text":"When a \\ud83d\\ude00 b \\ud83d, \ud800 do\x00 c.",}]'
    ((made,), _) = parse_operations(reply)
    assert isinstance(made, Add)
    assert made.name == "N"
    assert made.text == "When a \U0001f600 b �, � do c."
    made.text.encode("utf-8")


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"op": "Delete"}, "delete without an id"),
        ({"op": "Modify", "id": "G1"}, "modify without a text"),
        ({"op": "Modify", "id": "the first", "text": "a b c"}, "'the first' is no id of an experience"),
        ({"op": "Merge", "ids": ["G1", "[g1]"], "text": "a b c"}, "merge of one experience"),
        ({"op": "Rewrite", "id": 1, "text": "a"}, "unknown operation 'rewrite'"),
        ({"name": "x", "text": "a b c"}, "unknown operation ''"),
        ({"op": "Add", "text": "  "}, "add without a text"),
        ("Add", "not an object"),
    ],
)
def test_a_drop_says_what_was_wrong(item: object, reason: str) -> None:
    parsed, drops = parse_operations(json.dumps([item, {"op": "Keep", "id": 0}]))
    assert len(parsed) == 1
    assert reason in drops[0].reason


def test_delete_needs_no_content() -> None:
    assert parse_operations('[{"op": "delete", "id": 3}]') == ([Delete(id="G3")], [])


def test_a_reply_of_nothing_but_unusable_items_is_worth_asking_again() -> None:
    for reply in ('[{"op": "Fly"}]', "[1, 2]", '{"note": "none"}', "Nothing to do.", ""):
        with pytest.raises(Malformed):
            parse_operations(reply)


@pytest.mark.parametrize("reply", ["[]", "Nothing to change: []", '{"operations": []}', "```json\n[]\n```", "{}"])
def test_an_empty_list_is_an_answer(reply: str) -> None:
    assert parse_operations(reply) == ([], [])


def test_of_several_lists_the_last_is_meant() -> None:
    first, last = '[{"op": "Delete", "id": 1}, {"op": "Delete", "id": 2}]', '[{"op": "Delete", "id": 3}]'
    assert parse_operations(f"{first}\nNo, better:\n{last}")[0] == [Delete(id="G3")]


def test_lessons_over_the_limit_are_named() -> None:
    lessons, drops = parse_lessons(json.dumps([{"lesson": f"When {i}, do."} for i in range(3)]), limit=2)
    assert [lesson.text for lesson in lessons] == ["When 0, do.", "When 1, do."]
    assert "more than the 2 lessons" in drops[0].reason

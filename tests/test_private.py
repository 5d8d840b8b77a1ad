"""Private data is found by its form and its check digits, and ordinary lessons are left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprior.advantage import Advantage, LeakGuard, Lesson
from tokenprior.config import LearnConfig
from tokenprior.contrast import contrast
from tokenprior.group import Group
from tokenprior.library import Library
from tokenprior.models.scripted import ScriptedModel
from tokenprior.private import PrivatePolicy, find_private, masked, named
from tokenprior.revise import Revision, revise
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout
from tokenprior.task import Task

EXAMPLES = Path(__file__).parent.parent / "examples"

# Keys are put together here, so that no scanner takes this file for a leak.
PRIVATE = {
    "sk-" + "proj-4f7Gh2kL9mN0pQrS": "API key",
    "sk_" + "live_51H8aBcDeFgHiJkLm": "API key",
    "ghp_" + "0a1b2c3d4e5f6a7b8c9d": "API key",
    "github_" + "pat_11ABCDE0abcdefghij1k": "API key",
    "AKIA" + "2E0A8F3B244C9986": "API key",
    "xox" + "b-2401234567-AbCdEfGhIj0123": "API key",
    "AIza" + "SyA1234567890abcdefghijkl": "API key",
    "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N": "token",
    "Bearer " + "0a1b2c3d4e5f": "token",
    "-----BEGIN RSA PRIVATE" + " KEY-----\nMIIEow+/=\n-----END RSA PRIVATE KEY-----": "private key",
    "user:pa55word": "password",
    "anna.berg@firma.de": "e-mail address",
    "jürgen@büro.example.de": "e-mail address",
    "+49 30 1234567": "phone number",
    "+1 (415) 662-2671": "phone number",
    "(415) 662-2671": "phone number",
    "415.662.2671": "phone number",
    "4111 1111 1111 1111": "card number",
    "5500005555555559": "card number",
    "3782 822463 10005": "card number",
    "DE89 3704 0044 0532 0130 00": "IBAN",
    "GB82WEST12345698765432": "IBAN",
    "52.31.14.9": "IP address",
    "2a00:1450:4001:82a::200e": "IP address",
    "529.982.247-25": "national id",
    "11010519491231002X": "national id",
    "2 55 08 14 168 025 38": "national id",
    "12345678Z": "national id",
    "X1234567L": "national id",
}


@pytest.mark.parametrize(("secret", "kind"), PRIVATE.items())
def test_private_data_is_found_where_it_stands_and_named_by_its_kind(secret: str, kind: str) -> None:
    text = f"When you connect, use https://{secret}@host/x." if kind == "password" else f"When asked, say {secret}."
    (found,) = find_private(text)
    assert (text[found.start : found.end], found.kind) == (secret, kind)
    assert secret not in masked(text)
    assert f"[{kind}]" in masked(text)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("password=hunter22", "password=[password]"),
        ('{"password": "correct"}', '{"password": "[password]"}'),
        ("the passphrase is tr0ub4dor.", "the passphrase is [password]."),
        ("api_key: 0a1b2c3d4e", "api_key: [API key]"),
        ("/search?q=x&token=abc123def&y=2", "/search?q=x&token=[API key]&y=2"),
        ("Tel. 030 1234567 or mobile number 0170-9876543", "Tel. [phone number] or mobile number [phone number]"),
        ("IBAN GB82WEST12345698765432 ABC", "IBAN [IBAN] ABC"),
        ("card 1 4111 1111 1111 1111", "card 1 [card number]"),
    ],
)
def test_what_is_masked_is_the_private_part_alone(text: str, clean: str) -> None:
    assert masked(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "sk-learn-1.4.2 or hf-internal-testing",
        "When an API asks for Bearer authentication, send it in the header.",
        "anna@example.com, root@mail.test and x@host.invalid",
        "git clone git@github.com:owner/name or ssh://git@host/name",
        "555-0123 and (415) 555-0123",
        "chapter 1.2.3.4, 192.168.0.1, 127.0.0.1, 8.8.8.8, 224.0.0.1, 2001:db8::1 and version 52.31.14.9",
        "password: required; the password is case-sensitive; a password of 8-16 characters",
        "api_key = os.environ['K1'], password=get_pw2(), api_key=YOUR_KEY_1, https://host/?key=value",
        "x = +12345678901, 3 + 4 +12345678901, 456-234-12, 12 - 34 - 56",
        "0.4111111111111111 and 1,234,567,890 and 9007199254740993 and 123-456-7890",
        "2024-10-12T11:30:00 and 4096 tokens for $1500000",
        "4111 1111 1111 1112",  # the check digit is wrong
        "DE89 3704 0044 0532 0130 01",
        "529.982.247-26, 111.111.111-11 and 12345678A",
        "AKIAIOSFODNN7EXAMPLE",
    ],
)
def test_numbers_versions_placeholders_and_reserved_names_are_left_alone(text: str) -> None:
    assert find_private(text) == ()
    assert masked(text) == text


def test_the_tasks_of_our_examples_hold_nothing_that_is_taken_for_private() -> None:
    for path in sorted(EXAMPLES.rglob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert find_private(" ".join(map(str, json.loads(line).values()))) == (), path.name


def test_the_published_libraries_hold_nothing_that_is_taken_for_private() -> None:
    for path in sorted((Path(__file__).parent / "exports").glob("reference_*.*")):
        assert find_private(path.read_text(encoding="utf-8")) == ()


def test_kinds_are_named_once_each_and_what_was_found_is_not_repeated() -> None:
    text = "Write to anna@firma.de or bert@firma.de with +49 30 1234567."
    assert named(find_private(text)) == "e-mail address, phone number"


def test_findings_that_overlap_are_one() -> None:
    text = "https://anna:pa55word1@firma.de/"
    (found,) = find_private(text)
    assert (found.kind, masked(text)) == ("password", "https://[password]/")


WORDS = st.sampled_from([*PRIVATE, "When", "x", "=", "password", "1", "://", "@", ".", "-", "+", ":", "[", "]", "\n"])


@given(st.lists(WORDS, max_size=12).map(" ".join))
@settings(max_examples=150, deadline=None)
def test_what_was_masked_holds_nothing_private_and_the_rest_stays_as_it_is(text: str) -> None:
    findings = find_private(text)
    clean = masked(text)
    assert find_private(clean) == ()
    rest, at = [], 0
    for finding in findings:
        assert at <= finding.start < finding.end
        rest.append(text[at : finding.start])
        at = finding.end
    for part in (*rest, text[at:]):
        assert part in clean


@given(st.text(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_text_can_be_looked_through(text: str) -> None:
    assert all(0 <= finding.start < finding.end <= len(text) for finding in find_private(text))


@pytest.mark.parametrize(
    "beginning",
    ["sk-", "eyJ-", "eyJaaaaaaaa.", "-----BEGIN PRIVATE KEY-----", "a@", "a.", "a@a.", "1", "1 ", "+1 ", "://a", "?key",
     "password=", "password: a", "Bearer ", "DE89", "DE89 ", "2a00:", "1.", "(", "phone ", "x" * 50 + "_"],
)  # fmt: skip
def test_a_long_text_of_beginnings_ends(beginning: str) -> None:
    """200 kB: what takes a step for each pair of characters would take hours."""
    text = beginning * (200_000 // len(beginning))
    assert len(masked(text)) <= 12 * len(text)


LESSON = "When a refund is due, note anna.berg@firma.de as its clerk."
CLEAN = "When a refund is due, note [e-mail address] as its clerk."


async def contrasted(policy: PrivatePolicy, text: str = LESSON) -> Advantage:
    """One group whose learning model writes a lesson."""
    rollouts = tuple(Rollout(task_id="t", index=index, messages=(), output=output) for index, output in enumerate("ab"))
    group = Group(
        task=Task(id="t", question="Repeat: a", answer="a"),
        rollouts=rollouts,
        rewards=(Reward(value=1.0), Reward(value=0.0)),
    )
    reply = {"difference": "", "lessons": [{"name": "Refunds", "lesson": text}]}
    model, config = ScriptedModel([json.dumps(reply)]), LearnConfig(private=policy)
    (advantage,) = await contrast([group], Library(), model=model, config=config, guard=LeakGuard([]))
    return advantage


async def revised(policy: PrivatePolicy, **made: str) -> Revision:
    """A lesson without private data, and an update that makes up other words."""
    lesson = Lesson(name="Refunds", text="When a refund is due, note the name of its clerk.")
    operation = {"op": "Add", "name": "Refunds", "text": lesson.text, "lessons": [1], "reason": "", **made}
    model, config = ScriptedModel([json.dumps([operation])]), LearnConfig(private=policy)
    advantage = Advantage(groups=("t",), lessons=(lesson,))
    return await revise(Library(), [advantage], model=model, config=config, guard=LeakGuard([]))


@pytest.mark.anyio
async def test_a_lesson_with_private_data_is_refused_by_default_and_its_drop_names_the_kind_alone() -> None:
    advantage = await contrasted(LearnConfig().private)
    assert advantage.lessons == ()
    assert [(drop.what, drop.reason) for drop in advantage.drops] == [
        ("(withheld)", "holds private data (e-mail address)")
    ]


@pytest.mark.anyio
async def test_mask_keeps_the_lesson_without_the_data_and_keep_keeps_it_whole() -> None:
    assert [lesson.text for lesson in (await contrasted("mask")).lessons] == [CLEAN]
    assert [lesson.text for lesson in (await contrasted("keep")).lessons] == [LESSON]


@pytest.mark.anyio
async def test_a_lesson_that_is_too_long_is_told_without_its_private_data() -> None:
    (drop,) = (await contrasted("mask", LESSON + " Then wait." * 40)).drops
    assert drop.what.startswith(CLEAN)


@pytest.mark.anyio
async def test_words_that_the_update_makes_up_are_refused_too_and_the_lesson_itself_is_kept() -> None:
    revision = await revised("refuse", text=LESSON)
    assert [refused.reason for refused in revision.applied.refused] == ["holds private data (e-mail address)"]
    assert "anna.berg" not in str(revision)
    assert [e.text for e in revision.applied.library] == ["When a refund is due, note the name of its clerk."]


@pytest.mark.anyio
async def test_an_update_is_masked_in_its_words_and_its_reason() -> None:
    (experience,) = (await revised("mask", text=LESSON, reason="as bert@firma.de asked")).applied.library
    assert (experience.text, experience.provenance.reason) == (CLEAN, "as [e-mail address] asked")
    (experience,) = (await revised("refuse", reason="as bert@firma.de asked")).applied.library
    assert experience.provenance.reason == ""
    (experience,) = (await revised("keep", text=LESSON)).applied.library
    assert experience.text == LESSON


def test_the_default_policy_is_in_no_run_id_so_that_older_runs_go_on() -> None:
    assert "private" not in LearnConfig().model_dump(mode="json")
    assert LearnConfig(private="mask").model_dump(mode="json")["private"] == "mask"

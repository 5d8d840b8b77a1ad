"""Keys never reach a text that is kept; other words do."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import world
from tokenprior.agents.function import FunctionAgent
from tokenprior.attempt import attempt
from tokenprior.prior import TokenPrior
from tokenprior.redact import KEYS, URL_USER, URL_VALUE, redact, without_own_secrets
from tokenprior.store import open_store
from tokenprior.task import Task

SECRET = "abc123def456ghi7"


@pytest.mark.parametrize(
    "text",
    [
        "wrong key sk-proj-4f7Gh2kL9mN0pQrS",
        "key sk-ab***********89yz was refused",
        "token hf_AbCdEf0123456789",
        "gsk_0a1b2c3d4e5f6a7b",
        "ghp_0a1b2c3d4e5f6a7b8c9d",
        "AIzaSyA1234567890abcdefghijkl",
        "Authorization: Bearer 0a1b2c3d4e5f",
        "https://user:pa55word@host/v1",
    ],
)
def test_what_looks_like_a_key_is_replaced(text: str) -> None:
    clean = redact(text)
    assert "[redacted]" in clean
    assert not any(part in clean for part in ("4f7Gh2kL", "89yz", "0123456789", "1b2c3d", "1234567890", "pa55word"))


_PIECES = """
sk- sk_ gsk_ risk- hf_ ghp_ gh pat- github_pat_ xoxb- xapp- npm_ AIza GOCSPX- ya29. AKIA ASIA Bearer bearer eyJ .eyJ
hooks.slack.com/services/ https:// user:pass@ ?key= &api_token= ? & = @ . - _ * a A1 7 /
0123456789 abcdefgh ABCDEFGHIJKLMNOP abcdefghijklmnopqrstuvwxyz0123456789
""".split()  # noqa: SIM905  (easier to read)
PIECES = st.sampled_from([*_PIECES, "-----BEGIN PRIVATE KEY-----", " ", "\n"])


@given(st.lists(PIECES, max_size=12).map("".join))
@settings(max_examples=500)
def test_a_text_is_looked_at_closely_wherever_there_may_be_a_key(text: str) -> None:
    looked_at = without_own_secrets(text)
    for pattern in KEYS.values():
        looked_at = pattern.sub("[redacted]", looked_at)
    assert redact(text) == URL_USER.sub("[redacted]", URL_VALUE.sub(r"\1=[redacted]", looked_at))


def test_a_text_of_nothing_but_beginnings_of_keys_takes_no_time() -> None:
    text, before = "sk-" * 100_000, time.process_time()
    assert redact(text) == text
    assert time.process_time() - before < 5


@pytest.mark.parametrize("name", ["MY_API_KEY", "OPENAI_API_KEY", "HF_TOKEN", "db_password", "CLIENT_SECRET"])
def test_the_value_of_a_secret_variable_is_replaced(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, SECRET)
    assert redact(f"401 for {SECRET}: no") == "401 for [redacted]: no"


@pytest.mark.parametrize("name", ["MONKEY", "KEYBOARD", "TOKENIZER", "HOME_DIR"])
def test_a_variable_that_is_no_secret_is_not(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, SECRET)
    assert redact(SECRET) == SECRET


def test_a_short_value_would_black_out_words_and_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "the")
    assert redact("the answer") == "the answer"


def test_plain_words_are_left_as_they_are() -> None:
    text = "When a task asks for risk-adjusted values, see http://localhost:8000/v1#name and the skill list."
    assert redact(text) == text


def test_own_secrets_are_taken_out_of_what_goes_on_being_used_and_nothing_else_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_API_KEY", SECRET)
    page = "https://example.org/?token=abc sk-proj-4f7Gh2kL9mN0pQrS"
    assert without_own_secrets(f"{page} {SECRET}") == f"{page} [redacted]"


@pytest.mark.anyio
async def test_no_attempt_keeps_or_shows_a_secret_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", SECRET)

    def agent(task: Task, prior: TokenPrior) -> tuple[str, list[object]]:
        call = {"id": "1", "function": {"name": "send", "arguments": SECRET}}
        return f"it is {SECRET}", [{"role": "assistant", "content": f"key {SECRET}", "tool_calls": [call]}]

    with open_store(tmp_path / "s.db") as store:
        record = store.open_run("r-1", name="r", kind="learn", config={})
        group = await attempt(
            Task(id="t", question="q"),
            [TokenPrior()],
            agent=FunctionAgent(function=agent),
            verifier=world.SmallLetters(),
            shelf=record.shelf,
        )
        record.close("done")
        assert SECRET not in str(store.rows("rollouts", "r-1"))
    (rollout,) = group.rollouts
    assert rollout.output == "it is [redacted]"
    assert SECRET not in str(rollout)

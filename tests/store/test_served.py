"""Served requests in a store: kept with what is private masked, rewarded later, and added up by unit."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tokenprior.errors import NotFound
from tokenprior.reward import Reward
from tokenprior.served import Served
from tokenprior.store import Store, open_store
from tokenprior.store.served import ServedLog, effects_in

pytestmark = pytest.mark.anyio

KEY = "sk-live-0123456789abcdefABCDEF0123456789"
MAIL = "ada.lovelace@analytical-engines.org"


def request(identity: str, **changes: Any) -> Served:
    return replace(
        Served(
            id=identity,
            library="support",
            version="1a2b3c4d5e6f",
            held_out=False,
            share=0.5,
            unit=identity,
            source="proxy",
            served_at=float(len(identity)),
        ),
        **changes,
    )


def written(folder: Path) -> bytes:
    """All that stands in the files of a folder."""
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def rewarded(store: Store, identity: str, reward: float, **changes: Any) -> None:
    log = ServedLog(store.writer)
    await log.note([request(identity, **changes)])
    assert await log.reward(identity, Reward(value=reward))


async def test_what_was_noted_comes_back_with_its_reward_as_it_was(tmp_path: Path) -> None:
    exchange = {"messages": [{"role": "user", "content": "2+2?"}], "output": "4"}
    noted = request("a", reply_id="chatcmpl-1", model="gpt", task="sum", exchange=exchange, input_tokens=7, status=200)
    reward = Reward(value=0.5, feedback="half of it")
    with open_store(tmp_path / "s.db") as store:
        log = ServedLog(store.writer)
        await log.note([noted, request("b")])
        assert await log.reward("chatcmpl-1", reward) == replace(noted, reward=reward)
        assert await log.reward("b", Reward.unscored("nobody knows")) == request(
            "b", reward=Reward.unscored("nobody knows")
        )
        assert await log.reward("c", reward) is None


async def test_a_later_reward_takes_the_place_of_the_earlier_one(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        await rewarded(store, "a", 0.0)
        await ServedLog(store.writer).reward("a", Reward(value=1.0))
        (effect,) = effects_in(store)
    assert effect.served.rewarded == 1
    assert effect.served.reward is not None
    assert effect.served.reward.mean == 1.0


async def test_of_several_replies_of_one_name_the_newest_is_rewarded(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        log = ServedLog(store.writer)
        await log.note([request("a", reply_id="r", served_at=2.0), request("b", reply_id="r", served_at=1.0)])
        found = await log.reward("r", Reward(value=1.0))
    assert found is not None
    assert found.id == "a"


async def test_keys_and_addresses_of_people_never_reach_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSTREAM_API_KEY", "our-own-upstream-secret")
    said = f"I am {MAIL}, my key is {KEY} and yours our-own-upstream-secret."
    call = {"id": "1", "type": "function", "function": {"name": "mail", "arguments": f'{{"to": "{MAIL}"}}'}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": said}]},
        {"role": "assistant", "content": None, "tool_calls": [call], MAIL: 1},
    ]
    one = request("a", task=f"ticket of {MAIL}", exchange={"messages": messages, "output": said})
    with open_store(tmp_path / "s.db") as store:
        log = ServedLog(store.writer)
        await log.note([one])
        found = await log.reward("a", Reward(value=1.0, feedback=said))
    assert found is not None
    assert found.exchange is not None
    assert found.reward is not None
    assert found.exchange["output"].startswith("I am [e-mail address], my key is [")
    assert found.reward.feedback == found.exchange["output"]
    assert found.task == "ticket of [e-mail address]"
    raw = written(tmp_path)
    assert b"[e-mail address]" in raw
    for secret in (KEY, MAIL, "our-own-upstream-secret"):
        assert secret.encode() not in raw


async def test_names_that_a_database_would_refuse_take_nothing_with_them(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        log = ServedLog(store.writer)
        await log.note([request("a", model="\ud800\0", reply_id="r" * 300, task="t" * 300), request("b")])
        found = await log.reward("r" * 300, Reward(value=1.0))
        (effect,) = effects_in(store)
    assert found is not None
    assert (found.id, found.model, found.task) == ("a", "\\ud800\\x00", "t" * 255)
    assert effect.served.requests == 2


async def test_requests_are_added_up_by_arm_and_version(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        log = ServedLog(store.writer)
        await log.note(
            [
                request("a", unit="ada", input_tokens=5, output_tokens=1, reward=Reward(value=1.0)),
                request("aa", unit="ada", status=500, reward=Reward(value=0.0)),
                request("aaa", unit="ada", status=499),
                request("aaaa", unit="bob", status=0),
                request("aaaaa", unit="eve", held_out=True, reward=Reward(value=0.25)),
                request("b", library="other", version="ffff"),
                request("older", version="0000", served_at=0.5),
            ]
        )
        every, named = effects_in(store), effects_in(store, ["support"])
    assert [(one.library, one.version) for one in every] == [
        ("other", "ffff"),
        ("support", "0000"),
        ("support", "1a2b3c4d5e6f"),
        ("support", ""),
    ]
    assert named == every[1:]
    served, held_out = every[2].served, every[2].held_out
    assert (served.requests, served.rewarded, served.failed, served.left, served.units) == (4, 2, 2, 1, 1)
    assert (served.input_tokens, served.output_tokens) == (5, 1)
    assert served.reward is not None
    assert served.reward.mean == 0.5, "a unit's value is the mean of its rewards"
    assert (held_out.requests, held_out.rewarded, held_out.units) == (1, 1, 1)
    assert every[3].versions == 2


async def test_reading_waits_for_nobody_who_writes(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        await rewarded(store, "a", 1.0)
        with open_store(tmp_path / "s.db") as other:
            writing = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
            writing.execute("BEGIN IMMEDIATE")
            writing.execute("DELETE FROM served")
            (effect,) = effects_in(other)
            writing.execute("ROLLBACK")
            writing.close()
    assert effect.served.requests == 1


async def test_the_effect_is_added_up_from_the_index_alone(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        await rewarded(store, "a", 1.0)
    with sqlite3.connect(tmp_path / "s.db") as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT library, version, share, held_out, unit, count(*), sum(status = 499), "
            "avg(reward_value), sum(input_tokens), sum(output_tokens), min(served_at) FROM served "
            "WHERE library IN ('support') GROUP BY library, version, share, held_out, unit"
        ).fetchall()
    assert [row[3] for row in plan] == ["SEARCH served USING COVERING INDEX ix_served_effect (library=?)"]


async def test_a_library_that_was_never_served_is_named_with_those_that_were(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        assert effects_in(store) == ()
        with pytest.raises(NotFound, match="'support'; nothing was recorded yet: tokenprior serve"):
            effects_in(store, ["support"])
        await rewarded(store, "a", 1.0)
        with pytest.raises(NotFound, match="served as 'nope'; there are: support"):
            effects_in(store, ["support", "nope"])

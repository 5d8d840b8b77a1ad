"""Libraries that are served: read again when they change, and kept when what came cannot be read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from proxy_world import MATHS, WEB, write
from tokenprior.errors import ConfigError, DataError, NotFound, StoreError
from tokenprior.experience import Effect
from tokenprior.library import Applied, Library
from tokenprior.prior import Rendering, TokenPrior
from tokenprior.serve.libraries import Libraries, ServedLibrary, named_source
from tokenprior.store import RunStore, open_store
from tokenprior.store.record import StepEnd

pytestmark = pytest.mark.anyio


async def shipped(record: RunStore, step: int, library: Library) -> None:
    """Let a run end a step with a library that ships."""
    applied = Applied(library=library, done=(), refused=())
    await record.save_step(step, 0, applied, (), StepEnd(library=library, shipped=library, report={"step": step}))


async def test_a_file_is_read_again_when_it_changes_and_only_then(tmp_path: Path) -> None:
    path = write(tmp_path, "a", MATHS)
    served = ServedLibrary("a", path)
    whole = served.prior_for("anything")
    assert whole == TokenPrior.of(MATHS)
    assert not await served.refresh()
    assert served.prior_for(None) is whole, "rendered once"
    write(tmp_path, "a", WEB)
    assert await served.refresh()
    assert (served.version, served.prior_for(None)) == (WEB.version, TokenPrior.of(WEB))
    assert not await served.refresh()


async def test_what_lessons_were_measured_to_do_is_taken_too_though_the_version_stays(tmp_path: Path) -> None:
    served = ServedLibrary("a", write(tmp_path, "a", WEB), rendering=Rendering(tokens=40))
    assert served.whole.included == ("G0",)
    measured = Effect(mean=0.5, low=0.4, high=0.6, shrunk=0.5, tasks=9, rollouts=18)
    better = WEB.with_effects({"G1": measured})
    write(tmp_path, "a", better)
    assert await served.refresh()
    assert (served.version, served.whole.included) == (WEB.version, ("G1",))


async def test_a_broken_version_is_told_of_once_and_the_old_one_stays(tmp_path: Path) -> None:
    path = write(tmp_path, "a", MATHS)
    served = ServedLibrary("a", path)
    with open(path, "w", encoding="utf-8") as file:  # noqa: ASYNC230
        file.write("{")
    with pytest.raises(DataError, match="not JSON"):
        await served.refresh()
    assert not await served.refresh()
    os.unlink(path)
    with pytest.raises(DataError, match="cannot be read"):
        await served.refresh()
    assert not await served.refresh()
    assert served.version == MATHS.version
    write(tmp_path, "a", MATHS)
    assert not await served.refresh(), "it came back as it was"
    os.unlink(path)
    with pytest.raises(DataError):
        await served.refresh()


async def test_a_run_serves_what_is_used_as_it_learned_to_render(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        record = store.open_run("words-1a2b", name="words", kind="learn", config={})
        served = ServedLibrary("words", "words", store)
        assert (served.library, served.rendering) == (Library(), Rendering())
        await shipped(record, 0, MATHS)
        await shipped(record, 1, WEB)
        assert await served.refresh()
        assert served.library == WEB, "what ships after the last step"
        fixed = ServedLibrary("first", "words:0", store)
        store.pin("words-1a2b", MATHS.version, "the other did harm")
        assert await served.refresh()
        assert served.library == fixed.library == MATHS
        assert not await fixed.refresh()
        newer = store.open_run("words-3c4d", name="words", kind="learn", config={"learn": {}})
        assert not await served.refresh(), "a newer run of that name does not take its place unasked"
        newer.close("done")
        record.close("done")
        with pytest.raises(ConfigError, match="renders as it learned"):
            ServedLibrary("words", "words", store, rendering=Rendering(tokens=5))
        with pytest.raises(NotFound, match="there are: words-3c4d, words-1a2b"):
            ServedLibrary("x", "other", store)
    with pytest.raises(StoreError):
        await served.refresh()
    assert served.library == MATHS


async def test_a_run_that_learned_to_choose_chooses(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        config = {"learn": {"prior": {"relevant": 1}}}
        store.open_run("r-1", name="r", kind="learn", config=config).close("done")
        assert ServedLibrary("r", "r", store).rendering == Rendering(relevant=1)


async def test_priors_for_questions_are_kept_within_bounds(tmp_path: Path) -> None:
    served = ServedLibrary("a", write(tmp_path, "a", WEB), rendering=Rendering(relevant=1))
    first = served.prior_for("which name?")
    assert first.included == ("G1",)
    assert served.prior_for("which name?") is first
    for number in range(1_000):
        served.prior_for(f"which page {number}?")
    assert served.prior_for("which name?") is not first
    long = "which name? " * 1_000
    assert served.prior_for(long) == served.prior_for(long)


def test_names_come_from_files_and_runs_unless_they_are_given(tmp_path: Path) -> None:
    assert named_source("math=learned.json") == ("math", "learned.json")
    assert named_source("learned.json") == ("learned", "learned.json")
    assert named_source("a/b/my library.v2.json") == ("my-library", "a/b/my library.v2.json")
    assert named_source("demo:3") == ("demo", "demo:3")
    odd = tmp_path / "a=b.json"
    odd.write_text(json.dumps({}))
    assert named_source(str(odd)) == ("a-b", str(odd))


@pytest.mark.parametrize("name", ["none", "", "a/b", "ü", "-x", "x" * 65])
def test_a_name_that_no_header_could_bear_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="library name"):
        ServedLibrary(name, write(tmp_path, "a", MATHS))


def test_libraries_need_names_of_their_own(tmp_path: Path) -> None:
    served = ServedLibrary("a", write(tmp_path, "a", MATHS))
    with pytest.raises(ConfigError, match="a name of its own"):
        Libraries([served, served])
    with pytest.raises(ConfigError, match="no such file"):
        ServedLibrary("a", "a-run-without-a-store")

"""What a run took is told with what came from a provider's cache: in its report, on its page, and while it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenprior.cli.live import describe
from tokenprior.models.base import CallKey, Reply, Request
from tokenprior.progress import Progress
from tokenprior.rollout import Message, Usage
from tokenprior.serve.pages.report import page_of
from tokenprior.store import open_store
from tokenprior.store.report import report_of

pytestmark = pytest.mark.anyio

TOOK = Usage(calls=1, input_tokens=12_000, output_tokens=34, cached_tokens=10_240, cost_usd=None)


async def test_the_report_of_a_run_says_how_many_tokens_came_from_a_cache(tmp_path: Path) -> None:
    request = Request(key=CallKey(phase="rollout"), messages=(Message(role="user", content="How?"),))
    with open_store(tmp_path / "s.db") as store:
        record = store.open_run("r-1", name="r", kind="learn", config={})
        call = await record.call_sent("m", request, Usage())
        await record.call_done(call, Reply(text="So.", usage=TOOK))
        record.close("done")
        run = store.find_run("r-1")
        spent = report_of(store, run, plan=None, gated=False)["spent"]
        assert spent == {"tokens_in": 12_000, "tokens_cached": 10_240, "tokens_out": 34, "cost_usd": None}
        assert "12,000 tokens in (10,240 of them from a provider's cache), 34 out" in page_of(store, run)


def test_the_progress_says_it_where_there_are_any() -> None:
    progress = Progress(spent=TOOK)
    assert "12k in (10k cached) + 34 out tokens" in describe(progress, None)
    assert "cached" not in describe(Progress(spent=Usage(calls=1, input_tokens=9)), None)

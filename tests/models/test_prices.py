"""Prices: what a call costs, and that what is not known is not free."""

from __future__ import annotations

import pytest

from tokenprior.models.prices import Price, priced
from tokenprior.rollout import Usage

MILLION = Usage(calls=1, input_tokens=1_000_000, output_tokens=1_000_000, cached_tokens=400_000)


def test_the_users_table_goes_before_all() -> None:
    table = {"deepseek:deepseek-chat": Price(input=1.0, output=2.0), "http://h/v1#m": Price(input=3.0, output=4.0)}
    assert priced(MILLION, "deepseek:deepseek-chat", table).cost_usd == pytest.approx(3.0)
    assert priced(MILLION, "http://h/v1#m", table).cost_usd == pytest.approx(7.0)


def test_cached_tokens_have_their_own_price_if_there_is_one() -> None:
    assert Price(input=1.0, output=2.0, cached=0.1).cost_usd(MILLION) == pytest.approx(0.6 + 0.04 + 2.0)
    assert Price(input=1.0, output=2.0).cost_usd(MILLION) == pytest.approx(3.0)


def test_more_cached_tokens_than_tokens_make_no_negative_price() -> None:
    odd = Usage(calls=1, input_tokens=10, cached_tokens=1_000_000)
    assert Price(input=1.0, output=1.0, cached=0.5).cost_usd(odd) == pytest.approx(0.5)
    assert (priced(odd, "openai:gpt-4o-mini", {}).cost_usd or 0.0) >= 0.0


@pytest.mark.parametrize("model", ["embedded", "embedded:qwen2.5-coder-1.5b", "embedded-small"])
def test_what_runs_here_is_free(model: str) -> None:
    assert priced(MILLION, model, {}).cost_usd == 0.0


@pytest.mark.parametrize("model", ["http://127.0.0.1:8000/v1#gpt-4o", "scripted", "openai:no-such-model-9", "x:y"])
def test_an_unknown_price_is_none_and_never_zero(model: str) -> None:
    assert priced(MILLION, model, {}).cost_usd is None


@pytest.mark.parametrize("model", ["openai:gpt-4o-mini", "openai-chat:gpt-4o-mini", "deepseek:deepseek-chat"])
def test_known_models_have_a_price_and_a_cheaper_one_for_cached_tokens(model: str) -> None:
    fresh = priced(Usage(input_tokens=1_000_000), model, {}).cost_usd
    cached = priced(Usage(input_tokens=1_000_000, cached_tokens=1_000_000), model, {}).cost_usd
    assert fresh is not None
    assert cached is not None
    assert 0 < cached < fresh


def test_a_sum_with_one_unknown_price_is_unknown() -> None:
    known, unknown = Usage(calls=1, cost_usd=1.0), Usage(calls=1, cost_usd=None)
    assert (known + known).cost_usd == 2.0
    assert (known + unknown).cost_usd is None
    assert (known + unknown).calls == 2

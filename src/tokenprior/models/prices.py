"""Prices: what a call costs. A price that is not known is `None`, never zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tokenprior.rollout import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars for a million tokens. `cached` is the price of input tokens from the provider's cache."""

    input: float
    output: float
    cached: float | None = None

    def cost_usd(self, usage: Usage) -> float:
        cached = self.input if self.cached is None else self.cached
        fresh = max(0, usage.input_tokens - usage.cached_tokens)
        return (fresh * self.input + usage.cached_tokens * cached + usage.output_tokens * self.output) / 1e6


def priced(usage: Usage, model: str, prices: Mapping[str, Price]) -> Usage:
    """The usage with its money: from the user's table, else from genai-prices, else `None`.

    Args:
        model: as in the config, such as `deepseek:deepseek-chat`.
        prices: the user's table by the same names.
    """
    if (price := prices.get(model)) is not None:
        return replace(usage, cost_usd=price.cost_usd(usage))
    if model.startswith("embedded"):
        return replace(usage, cost_usd=0.0)
    if "://" in model or ":" not in model:
        return replace(usage, cost_usd=None)
    from genai_prices import Usage as PricedUsage
    from genai_prices import calc_price

    provider, name = model.split(":", 1)
    provider = {"openai-chat": "openai", "openai-responses": "openai"}.get(provider, provider)
    try:
        price_calculation = calc_price(
            PricedUsage(
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cache_read_tokens=min(usage.cached_tokens, usage.input_tokens),
            ),
            model_ref=name,
            provider_id=provider,
        )
    except (LookupError, ValueError):
        return replace(usage, cost_usd=None)
    return replace(usage, cost_usd=float(price_calculation.total_price))

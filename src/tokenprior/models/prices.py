"""Prices: what a call may cost and what it did. A price that is not known is `None`, never zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tokenprior.library import estimate_tokens
from tokenprior.models.base import CallFailed, Reply, Request
from tokenprior.rollout import Usage

NOTHING = Usage(calls=1, cost_usd=0.0)  # of a call that was made, and cost nothing
WRITTEN = 1.25  # times the price of fresh input: what Anthropic takes for tokens that it keeps for five minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars for a million tokens. `cached` is the price of input tokens from the provider's cache."""

    input: float
    output: float
    cached: float | None = None

    def cost_usd(self, usage: Usage, written_tokens: int = 0) -> float:
        cached = self.input if self.cached is None else self.cached
        fresh = max(0, usage.input_tokens - usage.cached_tokens) + (WRITTEN - 1) * written_tokens
        return (fresh * self.input + usage.cached_tokens * cached + usage.output_tokens * self.output) / 1e6


def priced(usage: Usage, model: str, prices: Mapping[str, Price], *, written_tokens: int = 0) -> Usage:
    """The usage with its money: from the user's table, else from genai-prices, else `None`.

    Args:
        model: as in the config, such as `deepseek:deepseek-chat`.
        prices: the user's table by the same names.
        written_tokens: see `Reply.written_tokens`.
    """
    if (price := prices.get(model)) is not None:
        return replace(usage, cost_usd=price.cost_usd(usage, written_tokens))
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
                cache_write_tokens=min(written_tokens, max(0, usage.input_tokens - usage.cached_tokens)),
            ),
            model_ref=name,
            provider_id=provider,
        )
    except (LookupError, ValueError):
        return replace(usage, cost_usd=None)
    return replace(usage, cost_usd=float(price_calculation.total_price))


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """Counts what the calls of one model use.

    Attributes:
        name: of the model.
        prices: the user's table by such names.
        share: of the price that is charged; a batch costs less than its calls one by one.
    """

    name: str
    prices: Mapping[str, Price]
    share: float = 1.0

    def most(self, request: Request) -> Usage:
        """The most a call may use: all of its prompt as fresh input, all of its token limit as output."""
        return self._priced(Usage(calls=1, input_tokens=request.most_input_tokens, output_tokens=request.max_tokens))

    def counted(self, reply: Reply, most: Usage) -> Reply:
        """A reply with what it cost.

        Args:
            most: what was reserved for it.
        """
        usage = replace(reply.usage, calls=1)
        if not usage.input_tokens and not usage.output_tokens:
            # Some endpoints count nothing. What is not counted would be outside of every budget.
            written = estimate_tokens(reply.text + "".join(call.arguments for call in reply.tool_calls))
            usage = replace(usage, input_tokens=most.input_tokens, output_tokens=written)
        return replace(reply, usage=self._priced(usage, reply.written_tokens))

    def charged(self, failure: CallFailed, most: Usage) -> Usage:
        """A refusal costs nothing; a reply that never came whole may have been paid for, and counts in full."""
        if failure.kind in ("rate-limit", "unreachable") or failure.kind.startswith("http-"):
            return NOTHING
        return most

    def _priced(self, usage: Usage, written_tokens: int = 0) -> Usage:
        full = priced(usage, self.name, self.prices, written_tokens=written_tokens)
        return full if full.cost_usd is None else replace(full, cost_usd=full.cost_usd * self.share)

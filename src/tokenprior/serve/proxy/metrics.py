"""Metrics of the proxy, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_ADDED_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 1.0)
_TOTAL_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0, 300.0, 600.0)


class Metrics:
    """Counts what passes. Each instance has a registry of its own.

    Args:
        in_flight: says how many requests are being answered.
    """

    def __init__(self, in_flight: Callable[[], float]) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "tokenprior_requests",
            "Requests that were answered; status 499 where the client went away.",
            ["route", "library", "arm", "status"],
            registry=registry,
        )
        self.added_s = Histogram(
            "tokenprior_added_seconds",
            "Time that the proxy added: from the whole request read to its leaving for the upstream.",
            buckets=_ADDED_S,
            registry=registry,
        )
        self.total_s = Histogram(
            "tokenprior_total_seconds",
            "Time from a request to the end of its reply.",
            buckets=_TOTAL_S,
            registry=registry,
        )
        gauge = Gauge("tokenprior_in_flight", "Requests that are being answered.", registry=registry)
        gauge.set_function(in_flight)
        self.prior_tokens = Counter(
            "tokenprior_prior_tokens", "Tokens of priors sent, about.", ["library"], registry=registry
        )
        self.reloads = Counter(
            "tokenprior_reloads",
            "New versions of libraries, by what came of them.",
            ["library", "outcome"],
            registry=registry,
        )
        self.feedback = Counter(
            "tokenprior_feedback", "Rewards reported, by what came of them.", ["outcome"], registry=registry
        )
        self.unrecorded = Counter(
            "tokenprior_unrecorded", "Requests that should have been written down and could not be.", registry=registry
        )
        self._children: dict[tuple[str, str, str, int], Counter] = {}

    def answered(self, route: str, library: str, arm: str, status: int) -> None:
        """Count a request."""
        key = (route, library, arm, status)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._requests.labels(route, library, arm, str(status))
        child.inc()

    def text(self) -> bytes:
        """All of it, in the text format."""
        return generate_latest(self._registry)

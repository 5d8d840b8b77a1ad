"""Served: a request of the world outside that a library stood before, or was held back from by lot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tokenprior.reward import Reward


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One request that was answered.

    Attributes:
        id: ours, given to the client in the header `x-tokenprior-id`.
        reply_id: as the endpoint called its reply; empty if it gave it no name.
        library: the name that the library is served under.
        version: of the library; for a request held out the one that it would have seen.
        held_out: whether it went without the prior.
        share: of the requests, 0.0 to 1.0, that were held out at that time.
        unit: what was drawn by lot: a hash of the user or conversation that the client named, else `id`.
        source: `proxy`, or `mcp` for an attempt that a coding agent reported.
        model: that the client asked for.
        status: HTTP status of the reply; 499 where the client went away, 0 where no reply came.
        latency_s: seconds from request to the end of the reply.
        served_at: seconds since 1970.
        task: what groups attempts at the same task: the client's name for it, else a hash of the question.
        exchange: `{"messages": [...], "output": "..."}`, redacted; `None` unless the config allows to keep it.
        reward: as reported; `None` while nobody has said.
    """

    id: str
    reply_id: str = ""
    library: str
    version: str
    held_out: bool
    share: float
    unit: str
    source: Literal["proxy", "mcp"]
    model: str = ""
    status: int = 200
    input_tokens: int = 0
    output_tokens: int = 0
    latency_s: float = 0.0
    served_at: float
    task: str | None = None
    exchange: dict[str, Any] | None = None
    reward: Reward | None = None

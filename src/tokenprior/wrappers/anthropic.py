"""Anthropic's Python client: `Anthropic`, `AsyncAnthropic`, and its classes for Bedrock, Vertex and Foundry.

The SDK has middleware, through which every request of every method passes: `messages.create`, `stream` and `parse`,
those of `beta`, tool runners, raw and streaming responses. The wrapped client is `client.with_options(middleware=...)`
with one more, the innermost, so that it sees what the others made of a request.

What is covered: messages, the count of their tokens, and batches of messages. What is not: agents and sessions that
live at Anthropic, and the older text completions.
"""

from __future__ import annotations

from typing import Any

from tokenprior.errors import ConfigError
from tokenprior.wrappers.base import Learned


def wrap(client: Any, learned: Learned) -> Any:
    """A client of the same class whose requests bear the prior. It shares the HTTP client with the given one."""
    try:
        from anthropic import Middleware
    except ImportError as error:
        raise ConfigError("this version of anthropic has no middleware: pip install -U 'anthropic>=2.10'") from error

    class Prior(Middleware):
        def handle(self, request: Any, call_next: Any) -> Any:
            return call_next(_conditioned(request, learned))

        async def handle_async(self, request: Any, call_next: Any) -> Any:
            return await call_next(_conditioned(request, learned))

    return client.with_options(middleware=[*client.middleware, Prior()])


def _conditioned(request: Any, learned: Learned) -> Any:
    route = request.url.partition("?")[0]
    if request.method != "post" or route not in ("/v1/messages", "/v1/messages/count_tokens", "/v1/messages/batches"):
        return request
    # The SDK lays extra_body over the body later; the prior has to find its place in what is sent.
    body = {**request.json, **(request.options.extra_json or {})}
    if route.endswith("batches"):
        asked = [{**one, "params": learned.passed("messages", one["params"])} for one in body["requests"]]
        body["requests"] = asked
    else:
        body = learned.passed("messages", body)
    changed = request.copy(body=body)
    changed.options.extra_json = None
    return changed

"""OpenAI's Python client: `OpenAI`, `AsyncOpenAI`, their Azure classes, and whatever else is made of them.

Every method of the client (create, parse and stream of chat completions and responses, raw and streaming responses,
beta) makes a request in one place, and asks `_prepare_options` first, which the SDK calls its "hook for mutating the
given options" and uses for Azure itself. The wrapped client is a copy (`client.copy()`) that overrides this hook and
nothing else, so `with_options` keeps it, and new methods have it from their first day. A version of the SDK without
the hook is refused when it is wrapped, never in silence.

What is covered: chat completions, responses, and the count of a response's tokens. What is not: what the client sends
elsewhere, that is files of batches, web sockets of responses and realtime, and the older completions and assistants.
"""

from __future__ import annotations

import inspect
from typing import Any

from tokenprior.placement import Api
from tokenprior.wrappers.base import Learned, recast

ROUTES: dict[str, Api] = {
    "/chat/completions": "chat",
    "/responses": "responses",
    "/responses/input_tokens": "responses",
}


def wrap(client: Any, learned: Learned) -> Any:
    """A client of the same class whose requests bear the prior. It shares the HTTP client with the given one."""
    kind = type(client)

    def conditioned(options: Any) -> Any:
        if options.method == "post" and (api := ROUTES.get(options.url)):
            # The SDK lays extra_body over the body later; the prior has to find its place in what is sent.
            given = {**options.json_data, **(options.extra_json or {})}
            options.json_data, options.extra_json = learned.passed(api, given), None
        return options

    def prepare(self: Any, options: Any) -> Any:
        return conditioned(kind._prepare_options(self, options))

    async def prepare_async(self: Any, options: Any) -> Any:
        return conditioned(await kind._prepare_options(self, options))

    is_async = inspect.iscoroutinefunction(getattr(kind, "_prepare_options", None))
    return recast(client.copy(), _prepare_options=prepare_async if is_async else prepare)

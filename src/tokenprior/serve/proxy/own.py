"""Routes of the proxy's own: /health, /metrics, /feedback, and /openapi.json, which describes them."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tokenprior.agents.seat import Refused
from tokenprior.errors import StoreError
from tokenprior.redact import redact
from tokenprior.reward import Reward
from tokenprior.serve.proxy.record import StillOpen

if TYPE_CHECKING:
    from tokenprior.serve.proxy.server import Proxy

MOST_FEEDBACK_BYTES = 256 * 1024  # the longest comment, with every character escaped, is half of it
LONGEST_NAME = 255
LONGEST_COMMENT = 10_000


class OwnRoutes:
    """What the proxy answers itself.

    Attributes:
        by_path: the handler of each path.
        without_key: paths that need no client key on loopback.
    """

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self.by_path: dict[str, Callable[[web.BaseRequest], Awaitable[web.Response]]] = {
            "/health": self._health,
            "/metrics": self._metrics,
            "/feedback": self._feedback,
            "/openapi.json": self._described,
        }
        self.without_key = frozenset({"/health", "/metrics"})

    async def _health(self, request: web.BaseRequest) -> web.Response:
        _only(request, "GET")
        served = {
            name: {"version": library.version, "lessons": len(library.library)}
            for name, library in self._proxy.libraries.by_name.items()
        }
        state = "stopping" if self._proxy.is_draining else "ok"
        return web.json_response({"state": state, "libraries": served})

    async def _metrics(self, request: web.BaseRequest) -> web.Response:
        _only(request, "GET")
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return web.Response(body=self._proxy.metrics.text(), headers={"Content-Type": kind})

    async def _described(self, request: web.BaseRequest) -> web.Response:
        _only(request, "GET")
        return web.json_response(_DESCRIPTION)

    async def _feedback(self, request: web.BaseRequest) -> web.Response:
        _only(request, "POST")
        name, reward = _read(await self._proxy.body_of(request, MOST_FEEDBACK_BYTES))
        counted, recorder = self._proxy.metrics.feedback, self._proxy.recorder
        if recorder is None:
            counted.labels("unknown").inc()
            words = "nothing is recorded here: serve with a holdout share, or with traffic.keep"
            raise Refused(404, words, "not_recorded")
        try:
            served = await recorder.reward(name, reward)
        except StillOpen as error:
            counted.labels("refused").inc()
            raise Refused(409, "the reply to this request has not ended: try again", "still_open") from error
        except StoreError as error:
            counted.labels("failed").inc()
            raise Refused(503, redact(str(error)), "not_stored") from error
        if served is None:
            counted.labels("unknown").inc()
            raise Refused(404, "no request or reply of this id was recorded", "unknown_id")
        counted.labels("kept").inc()
        return web.json_response({"id": served.id, "library": served.library, "version": served.version})


def _only(request: web.BaseRequest, method: str) -> None:
    if request.method not in (method, "HEAD" if method == "GET" else method):
        raise Refused(405, f"{request.method}: {method} alone is served here", "method_not_allowed")


def _read(raw: bytes) -> tuple[str, Reward]:
    """The id and the reward of a report."""
    shape = 'expected {"id": "...", "reward": a finite number, true or false, "comment": "..."}'
    try:
        value: Any = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is no JSON: {shape}", "invalid_json") from error
    if not isinstance(value, dict) or not value.keys() <= {"id", "reward", "comment"}:
        raise Refused(400, shape, "invalid_body")
    name, given, comment = value.get("id"), value.get("reward"), value.get("comment", "")
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
        raise Refused(400, f"id: {shape}", "invalid_id")
    if not isinstance(comment, str) or len(comment) > LONGEST_COMMENT:
        raise Refused(400, f"comment: expected up to {LONGEST_COMMENT:,} characters", "invalid_comment")
    try:
        reward = float(given) if isinstance(given, int | float) else math.nan
    except OverflowError:
        reward = math.inf
    if not math.isfinite(reward):
        raise Refused(400, f"reward: {shape}", "invalid_reward")
    return name, Reward(value=reward, feedback=comment)


def _refusals(*statuses: int) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {str(status): {"description": "refused", "content": content} for status in statuses}


def _told(schema: dict[str, Any], kind: str = "application/json") -> dict[str, Any]:
    return {"200": {"description": "done", "content": {kind: {"schema": schema}}}}


_TEXT = {"type": "string"}
_HEALTH = {
    "type": "object",
    "required": ["state", "libraries"],
    "properties": {
        "state": {"enum": ["ok", "stopping"]},
        "libraries": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["version", "lessons"],
                "properties": {"version": _TEXT, "lessons": {"type": "integer"}},
            },
        },
    },
}
_REPORT = {
    "type": "object",
    "required": ["id", "reward"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "string", "minLength": 1, "maxLength": LONGEST_NAME},
        "reward": {"anyOf": [{"type": "number"}, {"type": "boolean"}]},
        "comment": {"type": "string", "maxLength": LONGEST_COMMENT},
    },
}
_NOTED = {
    "type": "object",
    "required": ["id", "library", "version"],
    "properties": {"id": _TEXT, "library": _TEXT, "version": _TEXT},
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code"],
            "properties": {"message": _TEXT, "type": _TEXT, "code": _TEXT},
        }
    },
}
_DESCRIPTION: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "tokenprior serve",
        "version": "1",
        "description": "The proxy's own routes. What is under /v1/ is the upstream's API.",
    },
    "paths": {
        "/health": {"get": {"responses": _told(_HEALTH) | _refusals(401, 403)}},
        "/metrics": {"get": {"responses": _told(_TEXT, "text/plain") | _refusals(401, 403)}},
        "/openapi.json": {"get": {"responses": _told({"type": "object"}) | _refusals(401, 403)}},
        "/feedback": {
            "post": {
                "requestBody": {"required": True, "content": {"application/json": {"schema": _REPORT}}},
                "responses": _told(_NOTED) | _refusals(400, 401, 403, 404, 408, 409, 413, 503),
            }
        },
    },
    "components": {"schemas": {"Error": _ERROR}},
}

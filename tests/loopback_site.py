"""A site on loopback that answers as a test says, and remembers what it was asked.

`async with Site({"/": page("<p>hello</p>")}) as site:` runs it in the test's own loop; `site.url` is its address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: str


class Site:
    """The server. `answers` holds a function for each path; `404` meets any other."""

    def __init__(self, answers: Mapping[str, Answer] | None = None) -> None:
        self.answers = dict(answers or {})
        self.asked: list[Asked] = []
        self.port = 0
        self.closing = asyncio.Event()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]

    async def __aenter__(self) -> Site:
        self._runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closing.set()
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {name.casefold(): value for name, value in request.headers.items()}
        said = await request.text()
        self.asked.append(Asked(request.method, request.path, dict(request.query), headers, said))
        answer = self.answers.get(request.path)
        return await answer(request) if answer else web.Response(status=404, text="no such page")  # type: ignore[arg-type]


def page(text: str | bytes, content_type: str | None = "text/html; charset=utf-8", **headers: str) -> Answer:
    """A page, its headers written with `_` for `-`."""
    body = text.encode() if isinstance(text, str) else text
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if content_type is not None:
        named["Content-Type"] = content_type

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, headers=named)

    return answer


def redirect(target: str, status: int = 302) -> Answer:
    """A redirect to anywhere."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": target})

    return answer


def status(*codes: int, then: Answer | None = None, **headers: str) -> Answer:
    """These codes one after another, the last one for ever or until `then` follows."""
    left = list(codes)

    async def answer(request: web.Request) -> web.StreamResponse:
        if then is not None and not left:
            return await then(request)
        code = left.pop(0) if then is not None or len(left) > 1 else left[0]
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=code, text=f"refused: {dict(request.headers)}", headers=named)

    return answer


def reply(value: Any) -> Answer:
    """A JSON value."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response(value)

    return answer


def stream(chunk: bytes, times: int, **headers: str) -> Answer:
    """Chunks without a length, until whoever reads has had enough."""

    async def answer(request: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        response = web.StreamResponse(headers={"Content-Type": "text/plain"} | named)
        await response.prepare(request)
        for _ in range(times):
            await response.write(chunk)
        return response

    return answer


def never(site: Site) -> Answer:
    """Nothing, until the site closes."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await site.closing.wait()
        return web.Response()

    return answer

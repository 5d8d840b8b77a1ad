"""A fake OpenAI with batches, on loopback: files, states over several looks, rows in any order, and every trouble.

In a test: `with BatchServer(...) as server:`. Single calls are answered too, as `FakeOpenAI` does; `asked` counts what
was answered in batches, by the identity of a request, so that nothing is answered twice unnoticed.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

from fake_openai import FakeOpenAI, as_request, completion
from tokenprior.models.base import Request

STATES = ("validating", "in_progress", "finalizing")
Trouble = Callable[[Request], dict[str, Any] | None]


@dataclass
class FakeBatch:
    """A batch of the server."""

    id: str
    file: str
    requests: list[dict[str, Any]]
    looks: int = 0
    status: str = "validating"
    errors: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, str | None] = field(default_factory=lambda: {"output": None, "error": None})

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "created_at": 1_700_000_000,
            "input_file_id": self.file,
            "status": self.status,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "output_file_id": self.files["output"],
            "error_file_id": self.files["error"],
        }


class BatchServer(FakeOpenAI):
    """The server.

    Args:
        trouble: a row's `response` and `error` in place of a reply, for some requests.
        ends: how batches end; of one that is `expired` or `cancelled` every second request is done.
        errors: of batches that end as `failed`.
        has_batches: whether there are any.
        lost: what is done of making a batch before the connection breaks: `nothing`, or `all` but the answer; with
            `silence` all is done, and the answer is never sent.
        busy: how many looks after a batch are refused with 429.
        cut: how many files of rows break off in the middle before one is sent whole.
        holds: whether batches stay in progress until `release` is called.
        cancels: whether a batch can be cancelled.
        late: how many lists of batches leave out all of them.
    """

    def __init__(
        self,
        *,
        trouble: Trouble = lambda request: None,
        ends: str = "completed",
        errors: list[dict[str, Any]] | None = None,
        has_batches: bool = True,
        lost: str = "",
        busy: int = 0,
        cut: int = 0,
        holds: bool = False,
        cancels: bool = True,
        late: int = 0,
        **rest: Any,
    ) -> None:
        super().__init__(**rest)
        self.trouble, self.ends, self.errors, self.has_batches = trouble, ends, errors or [], has_batches
        self.lost, self.busy, self.cut, self.holds, self.cancels = lost, busy, cut, holds, cancels
        self.late = late
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, FakeBatch] = {}
        self.asked: Counter[str] = Counter()
        self.on_upload: Callable[[], None] = lambda: None
        self.on_batch: Callable[[], None] = lambda: None
        self.on_look: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def release(self) -> None:
        """Let batches that are held go on."""
        self.holds = False

    @property
    def in_batches(self) -> int:
        """Requests of all batches."""
        return sum(len(batch.requests) for batch in self.batches.values())

    def add_routes(self, router: web.UrlDispatcher) -> None:
        super().add_routes(router)
        if self.has_batches:
            router.add_post("/v1/files", self._upload)
            router.add_get("/v1/files/{file}/content", self._content)
            router.add_post("/v1/batches", self._create)
            router.add_get("/v1/batches", self._list)
            router.add_get("/v1/batches/{batch}", self._look)
            if self.cancels:
                router.add_post("/v1/batches/{batch}/cancel", self._cancel)

    async def _upload(self, request: web.Request) -> web.Response:
        self.headers.append({name.casefold(): value for name, value in request.headers.items()})
        form = await request.post()
        sent = form["file"]
        assert isinstance(sent, web.FileField)
        assert form["purpose"] == "batch"
        file = self._file(sent.file.read())
        self.on_upload()
        made = {"id": file, "object": "file", "purpose": "batch", "bytes": 0, "created_at": 0, "filename": "x"}
        return web.json_response(made | {"status": "processed"})

    def _file(self, content: bytes) -> str:
        file = f"file-{len(self.files)}"
        self.files[file] = content
        return file

    async def _create(self, request: web.Request) -> web.StreamResponse:
        wanted = await request.json()
        lost, self.lost = self.lost, ""
        if lost == "nothing":
            return self._broken(request)
        requests = [json.loads(line) for line in self.files[wanted["input_file_id"]].splitlines()]
        assert {(one["method"], one["url"]) for one in requests} == {("POST", "/v1/chat/completions")}
        assert len({one["custom_id"] for one in requests}) == len(requests)
        assert len({one["body"]["model"] for one in requests}) == 1
        batch = FakeBatch(f"batch-{len(self.batches)}", wanted["input_file_id"], requests)
        self.batches[batch.id] = batch
        self.on_batch()
        if lost == "silence":
            await self._closing.wait()
        return self._broken(request) if lost else web.json_response(batch.to_json())

    def _broken(self, request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.close()
        return web.Response()

    async def _list(self, request: web.Request) -> web.Response:
        newest = [] if self.late else [batch.to_json() for batch in reversed(self.batches.values())]
        self.late = max(0, self.late - 1)
        ids = [batch["id"] for batch in newest]
        after = request.query.get("after")
        start = ids.index(after) + 1 if after else 0
        page = newest[start : start + 2]
        more = start + 2 < len(newest)
        last = page[-1]["id"] if page else None
        return web.json_response({"object": "list", "data": page, "has_more": more, "last_id": last})

    async def _look(self, request: web.Request) -> web.StreamResponse:
        self.on_look()
        if self.busy:
            self.busy -= 1
            return web.json_response({"error": {"message": "slower"}}, status=429, headers={"Retry-After": "0"})
        batch = self.batches.get(request.match_info["batch"])
        if batch is None:
            return web.json_response({"error": {"message": "no such batch"}}, status=404)
        if batch.status in STATES:
            batch.looks += 1
            if batch.looks < len(STATES) or self.holds:
                batch.status = STATES[min(batch.looks, 1)]
            else:
                self._end(batch, self.ends)
        return web.json_response(batch.to_json())

    async def _cancel(self, request: web.Request) -> web.Response:
        batch = self.batches[request.match_info["batch"]]
        self._end(batch, "cancelled")
        return web.json_response(batch.to_json() | {"status": "cancelling"})

    def _end(self, batch: FakeBatch, status: str) -> None:
        batch.status = status
        if status == "failed":
            batch.errors = self.errors
            return
        rows: dict[str, list[dict[str, Any]]] = {"output": [], "error": []}
        for number, one in enumerate(batch.requests):
            said = as_request(one["body"])
            if status != "completed" and number % 2:
                error = {"code": f"batch_{status}", "message": f"This request was {status}."}
                rows["error"].append({"custom_id": one["custom_id"], "response": None, "error": error})
            elif wrong := self.trouble(said):
                rows["error"].append({"custom_id": one["custom_id"], "response": None, "error": None} | wrong)
            else:
                self.asked[said.key.task] += 1
                body = completion(self._text(said), one["body"])
                response = {"status_code": 200, "request_id": "r", "body": body}
                rows["output"].append({"custom_id": one["custom_id"], "response": response, "error": None})
        for kind, made in rows.items():
            random.Random(kind).shuffle(made)
            if made:
                # Unescaped, so that a reply may hold what some take for the end of a line.
                lines = (json.dumps({"id": "row", **row}, ensure_ascii=False) for row in made)
                batch.files[kind] = self._file("\n".join(lines).encode())

    async def _content(self, request: web.Request) -> web.StreamResponse:
        content = self.files[request.match_info["file"]]
        if not self.cut:
            return web.Response(body=content, content_type="application/octet-stream")
        self.cut -= 1
        half = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await half.prepare(request)
        await half.write(content[: len(content) // 2])
        return self._broken(request)

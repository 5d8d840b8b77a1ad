"""Batch API: OpenAI's form of batches, which many compatible servers speak too.

Order of events: a file of requests, one a line, is uploaded (this costs nothing); a batch is made of it; it is asked
after until it has ended; then a file of replies and one of errors hold a row for each request, in any order, told apart
by `custom_id`. Of a batch that expired or was cancelled, what was finished is in the first file, and paid for.

Source: OpenAI's guide and API reference of batches: at most 50,000 requests and 200 MB, of one model, within 24 hours.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tokenprior.errors import ModelError
from tokenprior.models.base import STOPS, CallFailed, Reply, Request, refusal
from tokenprior.models.chat_body import ReadReply, chat_body, chat_reply
from tokenprior.redact import redact
from tokenprior.rollout import StopReason, ToolCall
from tokenprior.text import shorten

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Batch

MOST_REQUESTS = 50_000
MOST_BYTES = 200_000_000
MOST_LISTED = 1_000  # batches looked through for one of ours; the newest come first
URL: Final = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")
# The provider takes up only so many tokens at a time, and refuses a batch that goes over when it looks into it.
_TOO_MUCH = {"token_limit_exceeded", "request_limit_exceeded", "rate_limit_exceeded"}
_NO_CREDIT = {"insufficient_quota", "billing_hard_limit_reached"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchState:
    """A batch as the provider has it.

    Attributes:
        status: `validating`, `in_progress`, `finalizing`, `cancelling`, or one of `ENDED`.
        files: of rows; there may be none.
        failure: why a failed batch was not begun.
    """

    id: str
    status: str
    files: tuple[str, ...] = ()
    failure: Exception | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class BatchApi:
    """The batches of one model.

    Args:
        name: what the ledger, the prices and messages call it.
        base_url: such as `http://HOST/v1`.
        model: what the endpoint calls it.
        key: sent as a bearer token.
        json_schema: whether the endpoint can be held to a schema of the reply.
        by_program: whether it is for requests with a `body`.
    """

    def __init__(
        self, name: str, *, base_url: str, model: str, key: str, json_schema: bool = False, by_program: bool = False
    ) -> None:
        self.name, self.by_program = name, by_program
        self._base_url, self._model, self._key, self._json_schema = base_url, model, key, json_schema
        self._client: AsyncOpenAI | None = None

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def line(self, custom_id: str, request: Request) -> bytes:
        """A request as a line of a file."""
        body = chat_body(request, self._model, json_schema=self._json_schema) if request.body is None else request.body
        made = {"custom_id": custom_id, "method": "POST", "url": URL, "body": body}
        return json.dumps(made).encode() + b"\n"

    async def upload(self, lines: Iterable[bytes]) -> str:
        """Send a file of requests. Returns its id; nothing is paid for it.

        Raises:
            CallFailed: it did not arrive.
            ModelError: the endpoint refuses for good, or has no batches.
        """
        async with self._mapped():
            file = ("tokenprior.jsonl", b"".join(lines), "application/jsonl")
            return (await self._opened().files.create(file=file, purpose="batch")).id

    async def create(self, file: str) -> str:
        """Make a batch of a file. Returns its id.

        Raises:
            CallFailed: it could not be made, or (`timeout`, `connection`, `http-5NN`) nobody knows whether it was: then
                `find` tells.
            ModelError: as `upload`.
        """
        async with self._mapped():
            # Tried once: a batch that was made although its answer was lost would be made and paid twice.
            once = self._opened().with_options(max_retries=0)
            made = await once.batches.create(input_file_id=file, endpoint=URL, completion_window="24h")
            return made.id

    async def find(self, file: str) -> str | None:
        """The batch that was made of a file, if there is one.

        Raises:
            CallFailed, ModelError: it cannot be told.
        """
        async with self._mapped():
            seen = 0
            async for batch in self._opened().batches.list(limit=100):
                if batch.input_file_id == file:
                    return batch.id
                seen += 1
                if seen >= MOST_LISTED:
                    break
        return None

    async def state(self, batch: str) -> BatchState:
        """Where a batch stands.

        Raises:
            CallFailed: it cannot be told now.
            ModelError: it is not known here, or the key may not see it.
        """
        async with self._mapped(batch):
            once = self._opened().with_options(max_retries=0)  # whoever waits asks again, after a pause of its own
            return self._state(await once.batches.retrieve(batch))

    async def cancel(self, batch: str) -> None:
        """Ask that no more of a batch be worked at. What is finished by then is kept and paid for.

        Raises:
            CallFailed, ModelError: it cannot be cancelled.
        """
        async with self._mapped(batch):
            await self._opened().batches.cancel(batch)

    async def rows(self, state: BatchState) -> AsyncIterator[tuple[str, Reply | Exception]]:
        """What became of the requests of an ended batch, by `custom_id`, in no order; what is no row is left out.

        Raises:
            CallFailed, ModelError: they cannot be had.
        """
        for file in state.files:
            async with self._mapped(file):
                content = (await self._opened().files.content(file)).content
            for line in content.split(b"\n"):  # a reply may hold what Python calls the end of a line
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(row, dict) and isinstance(row.get("custom_id"), str):
                    yield row["custom_id"], self._said(row)

    def _said(self, row: dict[str, Any]) -> Reply | Exception:
        response, error = row.get("response"), row.get("error")
        response = response if isinstance(response, dict) else {}
        status, body = response.get("status_code"), response.get("body")
        if status == 200:
            try:
                return _program_reply(body) if self.by_program else chat_reply(body)
            except (ValueError, RecursionError) as problem:
                return CallFailed("garbled", shorten(redact(str(problem)), 300), retryable=True)
        told = body.get("error") if isinstance(body, dict) else error
        told = told if isinstance(told, dict) else {"message": told}
        said = shorten(redact(str(told.get("message") or told.get("code") or "no reason is given")), 300)
        if isinstance(status, int) and 300 <= status < 600:
            return refusal(self.name, status, {}, said, redact(json.dumps(body)) if self.by_program else "")
        if told.get("code") in ("batch_expired", "batch_cancelled"):
            return CallFailed("timeout", said, retryable=False)
        return CallFailed("batch", said, retryable=True)

    def _state(self, batch: Batch) -> BatchState:
        files = tuple(file for file in (batch.output_file_id, batch.error_file_id) if file)
        failure = self._failure(batch) if batch.status == "failed" else None
        return BatchState(id=batch.id, status=str(batch.status), files=files, failure=failure)

    def _failure(self, batch: Batch) -> Exception:
        errors = (batch.errors.data if batch.errors else None) or []
        said = shorten(redact("; ".join(str(error.message or error.code) for error in errors[:3])), 300)
        if any(error.code in _TOO_MUCH for error in errors):
            return CallFailed("rate-limit", said, retryable=True)
        return ModelError(f"{redact(self.name)}: the batch {batch.id} was refused: {said or 'no reason is given'}")

    def _opened(self) -> AsyncOpenAI:
        from openai import AsyncOpenAI, Omit

        if self._client is None:
            self._client = AsyncOpenAI(
                base_url=self._base_url,
                api_key=self._key or "none",
                # The client takes these two from the environment, and would tell them to any address.
                default_headers={"OpenAI-Organization": Omit(), "OpenAI-Project": Omit()},  # type: ignore[dict-item]  # as its docs do
            )
        return self._client

    @asynccontextmanager
    async def _mapped(self, what: str = "") -> AsyncIterator[None]:
        """Foreign errors as ours.

        Args:
            what: a batch or a file that was asked for; else it is the endpoint that has no batches.
        """
        from openai import APIConnectionError, APIStatusError, APITimeoutError, OpenAIError

        try:
            yield
        except APIStatusError as error:
            said = shorten(redact(str(error)), 300)
            if error.code in _NO_CREDIT:
                raise ModelError(f"{redact(self.name)} refused: the account has no credit left ({said})") from error
            if error.status_code in (404, 405, 501):
                raise ModelError(self._unknown(what, said)) from error
            raise refusal(self.name, error.status_code, error.response.headers, said) from error
        except APITimeoutError as error:
            raise CallFailed("timeout", "no answer to a question about a batch", retryable=True) from error
        except APIConnectionError as error:
            words = shorten(redact(str(error.__cause__ or error)), 300)
            raise CallFailed("connection", words, retryable=True) from error
        except OpenAIError as error:
            raise CallFailed("garbled", shorten(redact(str(error)), 300), retryable=True) from error

    def _unknown(self, what: str, said: str) -> str:
        name = redact(self.name)
        if what:
            return (
                f"{name}: the endpoint does not know {what} ({said}): is the key of the same account? "
                "With endpoint.batch: false the run goes on without it"
            )
        return (
            f"{name}: the endpoint has no batches ({said}): set endpoint.batch: false, or name in "
            "endpoint.batch.models those that have them"
        )


def _program_reply(body: Any) -> Reply:
    read = ReadReply.of(body)
    return Reply(
        text=read.text,
        stop=STOPS.get(read.finish, StopReason.DONE),
        usage=read.usage,
        tool_calls=tuple(ToolCall(**call) for _, call in sorted(read.calls.items()) if call["name"]),
        body=json.dumps(body),
    )

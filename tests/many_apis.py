"""A server on loopback, in a thread: OpenAI's chat completions and responses, and Anthropic's messages.

It keeps what it was sent, and answers by the request alone, whole or as a stream: with a call of the first tool while
no result of one is there, with JSON where a format is asked for, else with "fine".
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JSON = '{"value": 1}'
Event = dict[str, Any]


class ManyApis:
    """The server. Use as a context manager.

    Attributes:
        asked: path and body of all requests, in order.
        refuse: how many requests are answered with status 500 first.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.refuse = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((self.path, body))
                if outer.refuse:
                    outer.refuse -= 1
                    return self._send(500, "application/json", b'{"error": {"message": "not now"}}')
                path = self.path.partition("?")[0]
                if body.get("stream"):
                    events = next(made for end, made in _STREAMS.items() if path.endswith(end))(body)
                    sent = "".join(f"{_named(event)}data: {json.dumps(event)}\n\n" for event in events)
                    end = "data: [DONE]\n\n" if path.endswith("completions") else ""
                    return self._send(200, "text/event-stream", (sent + end).encode())
                whole = next(made for end, made in _WHOLE.items() if path.endswith(end))(body)
                return self._send(200, "application/json", json.dumps(whole).encode())

            def do_GET(self) -> None:
                return self._send(200, "application/json", b'{"object": "list", "data": []}')

            def _send(self, status: int, kind: str, raw: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name)
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for _, body in self.asked]

    def __enter__(self) -> ManyApis:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def _named(event: Event) -> str:
    return f"event: {event['type']}\n" if "type" in event else ""


def chat_text(body: dict[str, Any]) -> str:
    system = json.dumps(body["messages"])
    if "[[ ## " in system:  # as DSPy reads it
        return "[[ ## reasoning ## ]]\nso\n\n[[ ## answer ## ]]\nfine\n\n[[ ## completed ## ]]"
    return JSON if "response_format" in body else "fine"


def _chat_message(body: dict[str, Any]) -> tuple[dict[str, Any], str]:
    tools = body.get("tools") or ()
    if not tools or any(message["role"] == "tool" for message in body["messages"]):
        return {"role": "assistant", "content": chat_text(body)}, "stop"
    offered = [tool["function"]["name"] for tool in tools]
    call = {"id": "c1", "type": "function", "function": {"name": offered[0], "arguments": JSON}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"


def _chat(body: dict[str, Any]) -> Event:
    message, finish = _chat_message(body)
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "finish_reason": finish, "message": message}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
    }


def _chat_events(body: dict[str, Any]) -> list[Event]:
    message, finish = _chat_message(body)
    calls = [call | {"index": n} for n, call in enumerate(message.get("tool_calls", ()))]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
    deltas: list[tuple[dict[str, Any], str | None]] = [(message | ({"tool_calls": calls} if calls else {}), None)]
    return [
        head | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        for delta, reason in [*deltas, ({}, finish)]
    ]


def _response(body: dict[str, Any]) -> Event:
    text = JSON if (body.get("text") or {}).get("format") else "fine"
    part = {"type": "output_text", "text": text, "annotations": []}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": body["model"],
        "status": "completed",
        "output": [message],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {"input_tokens": 3, "output_tokens": 1, "total_tokens": 4} | details,
    }


def _response_events(body: dict[str, Any]) -> list[Event]:
    whole = _response(body)
    (message,) = whole["output"]
    (part,) = message["content"]
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    events: list[Event] = [
        {"type": "response.created", "response": whole | {"status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": message | {"content": []}},
        {"type": "response.content_part.added", **at, "part": part | {"text": ""}},
        {"type": "response.output_text.delta", **at, "delta": part["text"], "logprobs": []},
        {"type": "response.output_text.done", **at, "text": part["text"], "logprobs": []},
        {"type": "response.completed", "response": whole},
    ]
    return [event | {"sequence_number": number} for number, event in enumerate(events)]


def _message(body: dict[str, Any]) -> Event:
    text = JSON if body.get("output_config") or body.get("output_format") else "fine"
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 1},
    }


def _message_events(body: dict[str, Any]) -> list[Event]:
    whole = _message(body)
    return [
        {"type": "message_start", "message": whole | {"content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": whole["content"][0]["text"]},
        },
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 1},
        },
        {"type": "message_stop"},
    ]


_WHOLE = {
    "/chat/completions": _chat,
    "/responses/input_tokens": lambda body: {"object": "response.input_tokens", "input_tokens": 3},
    "/responses": _response,
    "/messages/count_tokens": lambda body: {"input_tokens": 3},
    "/messages/batches": lambda body: {
        "id": "b1",
        "type": "message_batch",
        "processing_status": "ended",
        "request_counts": {},
    },
    "/messages": _message,
    "/embeddings": lambda body: {"object": "list", "model": body["model"], "data": [], "usage": {}},
}
_STREAMS = {"/chat/completions": _chat_events, "/responses": _response_events, "/messages": _message_events}

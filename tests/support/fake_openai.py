"""An OpenAI server that answers at once, for whoever is to be seen asking."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CALL = {"index": 0, "id": "call-1", "function": {"name": "tide", "arguments": '{"harbour": "Bremen"}'}}


class FakeOpenAI(ThreadingHTTPServer):
    """Answers chats as they ask to be answered, and keeps what was asked in `chats`.

    fails: with 503 instead. form: what a structured answer is.
    """

    daemon_threads = True

    def __init__(self, *, fails: bool = False, form: str = '{"port": "Bremen", "depth": 3}') -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fails = fails
        self.form = form
        self.chats: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    @contextmanager
    def serving(self) -> Iterator[FakeOpenAI]:
        """Answer until the block is left."""
        thread = threading.Thread(target=self.serve_forever, args=(0.01,), name="fake-openai")
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeOpenAI

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        models = {"data": [{"id": "first-model"}]}
        hits = {"prompt_cache": {"hits": len(self.server.chats), "misses": 0}, "targets": []}
        self._send_json(200, models if self.path == "/v1/models" else hits)

    def do_POST(self) -> None:
        self.server.keys.add(self.headers["Authorization"])
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.chats.append(body)
        if self.server.fails:
            self._send_json(503, {"error": {"message": "as many wait as may"}})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for event in self._events(body):
                self.wfile.write(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode())
        except OSError:  # an impatient client
            return

    def _events(self, body: dict[str, Any]) -> Iterator[dict[str, Any] | str]:
        if body.get("tool_choice") == "required":
            deltas: list[dict[str, Any]] = [{"tool_calls": [CALL]}]
        elif "response_format" in body:
            deltas = [{"content": self.server.form}]
        else:
            deltas = [{"content": f"word{number} "} for number in range(20)]
        for delta in deltas:
            yield {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        finish = "tool_calls" if "tool_calls" in deltas[0] else "stop"
        yield {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
        yield {"choices": [], "usage": {"completion_tokens": len(deltas)}}
        yield "[DONE]"

    def _send_json(self, status: int, document: object) -> None:
        raw = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

"""HTTP under gevent: one user's connection to the OpenAI API.

Stage: before 1 route and behind 7 SSE.
Owns: the sockets and the clock.
Does not know: locust, what is asked, what is done with the figures.

geventhttpclient's response is read line by line: `readline` returns as soon as a line is there, while `read(n)` and
iterating, as with locust's FastHttpUser, wait until 4 KB have gathered and would report the first token far too late.
"""

from __future__ import annotations

import json
from time import perf_counter
from typing import Any, Final

from geventhttpclient import URL, HTTPClient
from geventhttpclient.response import HTTPParseError, HTTPSocketPoolResponse

from load.answer import AnswerReader, ChatError, error_message
from load.sse import SseParser

_HEADERS: Final = {"Content-Type": "application/json", "Accept": "text/event-stream"}


class ChatClient:
    """Streams chat completions over one kept-alive connection. One chat at a time.

    host: where the server is, with or without the `/v1` that OpenAI's clients end it with.
    silence_s: a stream that sends nothing, not even a comment, for so long has failed.
    """

    def __init__(self, host: str, *, api_key: str | None = None, silence_s: float = 60.0) -> None:
        url = URL(host.rstrip("/").removesuffix("/v1"))
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._base_path = url.path.rstrip("/")
        self._http = HTTPClient.from_url(url, concurrency=1, connection_timeout=10.0, network_timeout=silence_s)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def first_model(self) -> str:
        """Return the first model the server lists. Raises ChatError."""
        try:
            return str(self.get_json("/v1/models")["data"][0]["id"])
        except (LookupError, TypeError) as error:
            raise ChatError("/v1/models does not list a model") from error

    def get_json(self, path: str) -> Any:  # noqa: ANN401 (whatever the server says)
        """Return the JSON document at `path`. Raises ChatError."""
        try:
            with self._http.request("GET", f"{self._base_path}{path}", headers=self._headers) as response:
                return json.loads(_read_ok(response))
        except (OSError, HTTPParseError) as error:
            raise _connection_fault(error) from error
        except ValueError as error:
            raise ChatError(f"{path} is not JSON") from error

    def chat(self) -> Chat:
        """Return a chat that has not begun."""
        return Chat(self._http, f"{self._base_path}/v1/chat/completions", _HEADERS | self._headers)


class Chat:
    """One chat completion. `answer` holds what is known so far, also after a fault."""

    def __init__(self, http: HTTPClient, path: str, headers: dict[str, str]) -> None:
        self._http = http
        self._path = path
        self._headers = headers
        self.answer = AnswerReader(perf_counter())

    @property
    def age_s(self) -> float:
        """Time since the request was sent."""
        return self.answer.elapsed_s(perf_counter())

    def run(self, body: dict[str, Any], *, leave_after_deltas: int | None = None) -> bool:
        """Send the request and read the answer; blocks its greenlet. Return False where the user left early.

        leave_after_deltas: close the connection after so many deltas; None stays to the end.
        Raises ChatError for an HTTP error, a broken connection, an error event or an incomplete stream.
        """
        raw = json.dumps(body, ensure_ascii=False).encode()
        self.answer = AnswerReader(perf_counter())
        try:
            # leaving the block with an unread body closes the socket, which is how an impatient user leaves
            with self._http.request("POST", self._path, body=raw, headers=self._headers) as response:
                return self._read(response, leave_after_deltas)
        except (OSError, HTTPParseError) as error:
            raise _connection_fault(error) from error

    def _read(self, response: HTTPSocketPoolResponse, leave_after_deltas: int | None) -> bool:
        if response.status_code != 200:
            raise ChatError(f"HTTP {response.status_code}: {_error_text(response)}")
        events = SseParser()
        while line := response.readline(b"\n"):
            now_s = perf_counter()
            for event in events.feed(line):
                self.answer.take(event, now_s)
            if leave_after_deltas is not None and self.answer.num_deltas >= leave_after_deltas:
                return False
        self.answer.check_complete()
        return True


def _read_ok(response: HTTPSocketPoolResponse) -> bytes:
    if response.status_code != 200:
        raise ChatError(f"HTTP {response.status_code}: {_error_text(response)}")
    return response.read()


def _error_text(response: HTTPSocketPoolResponse) -> str:
    raw = response.read()
    try:
        return error_message(json.loads(raw))
    except ValueError:
        return raw[:200].decode(errors="replace") or "no body"


def _connection_fault(error: Exception) -> ChatError:
    # an OSError's errno text without its address, so that locust counts equal failures as one
    return ChatError(f"connection: {getattr(error, 'strerror', None) or error}")

"""One streamed answer, as its parts arrive.

Stage: the client's end of a request's way, behind 7 SSE.
Owns: what counts as the first token, as an answer's end and as a fault of the stream.
Does not know: sockets, locust, clocks: every moment is passed in, in seconds of one monotonic clock.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from load.sse import SseEvent

DONE: Final = "[DONE]"
_TOKEN_FIELDS: Final = ("content", "reasoning", "reasoning_content", "tool_calls", "refusal")
"""Fields of a delta that show the reader something; `role` alone is not a token."""


class ChatError(Exception):
    """A chat that failed. The message is one sentence, the same for all failures of a kind: reports group by it."""


class AnswerTimes:
    """When an answer's parts came. Times are seconds since `started_s`, the moment before the request was sent."""

    def __init__(self, started_s: float) -> None:
        self._started_s = started_s
        self._first_s: float | None = None
        self._last_s: float | None = None
        self._counted_tokens: int | None = None
        self.num_deltas = 0

    @property
    def ttft_s(self) -> float | None:
        """Time to the first part with content, reasoning or a tool call; None before it came."""
        return None if self._first_s is None else self._first_s - self._started_s

    @property
    def num_tokens(self) -> int:
        """Tokens of the answer, as the server counts them; where it does not, its parts."""
        return self.num_deltas if self._counted_tokens is None else self._counted_tokens

    @property
    def inter_token_s(self) -> float | None:
        """Mean time of a token after the first part; None where fewer than two tokens say nothing about it."""
        if self._first_s is None or self._last_s is None or self.num_deltas < 2 or self.num_tokens < 2:
            return None
        return (self._last_s - self._first_s) / (self.num_tokens - 1)

    def elapsed_s(self, now_s: float) -> float:
        """Time since the request was sent."""
        return now_s - self._started_s

    def mark_delta(self, now_s: float) -> None:
        """Note that a part came that shows the reader something."""
        self.num_deltas += 1
        self._first_s = now_s if self._first_s is None else self._first_s
        self._last_s = now_s

    def count_tokens(self, num_tokens: int | None) -> None:
        """Note how many tokens the server says the answer has; None: it does not say."""
        self._counted_tokens = num_tokens


@dataclass(slots=True)
class CalledTool:
    """A tool call, as far as it has come."""

    id: str = ""
    name: str = ""
    arguments: str = ""


class AnswerReader(AnswerTimes):
    """Takes a chat completion's events and measures the answer."""

    def __init__(self, started_s: float) -> None:
        super().__init__(started_s)
        self._content: list[str] = []
        self._calls: dict[int, CalledTool] = {}
        self.finish_reason: str | None = None
        self.done = False

    @property
    def content(self) -> str:
        """The answer's final text, which the next turn of a conversation quotes."""
        return "".join(self._content)

    @property
    def tool_calls(self) -> list[CalledTool]:
        """The tools it calls, in order."""
        return [self._calls[index] for index in sorted(self._calls)]

    def take(self, event: SseEvent, now_s: float) -> None:
        """Take the next event. Raises ChatError where the server reports an error or breaks the protocol."""
        if self.done:
            raise ChatError("the stream went on after [DONE]")
        if event.data == DONE:
            self.done = True
            return
        chunk = _parse(event.data)
        if event.event == "error" or "error" in chunk:
            raise ChatError(f"error in the stream: {error_message(chunk)}")
        if usage := chunk.get("usage"):
            self.count_tokens(usage.get("completion_tokens"))
        for choice in chunk.get("choices", ()):
            self._take_choice(choice, now_s)

    def check_complete(self) -> None:
        """Raise ChatError unless the stream came to its proper end."""
        if not self.done:
            raise ChatError("the stream ended without [DONE]")
        if self.finish_reason is None:
            raise ChatError("the stream ended without a finish_reason")

    def _take_choice(self, choice: dict[str, Any], now_s: float) -> None:
        delta = choice.get("delta") or {}
        if any(delta.get(field) for field in _TOKEN_FIELDS):
            self.mark_delta(now_s)
            self._content.append(delta.get("content") or "")
            for part in delta.get("tool_calls") or ():
                self._take_call(part)
        self.finish_reason = choice.get("finish_reason") or self.finish_reason

    def _take_call(self, part: dict[str, Any]) -> None:
        call = self._calls.setdefault(part.get("index", 0), CalledTool())
        function = part.get("function") or {}
        call.id = part.get("id") or call.id
        call.name = function.get("name") or call.name
        call.arguments += function.get("arguments") or ""


def error_message(body: object) -> str:
    """The message of an OpenAI error body, or the body itself where it is none."""
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", error) if isinstance(error, dict) else error)


def _parse(text: str) -> dict[str, Any]:
    try:
        chunk = json.loads(text)
    except json.JSONDecodeError:
        raise ChatError("an event of the stream is not JSON") from None
    if not isinstance(chunk, dict):
        raise ChatError("an event of the stream is not a JSON object")
    return chunk

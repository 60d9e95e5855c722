"""A streamed chat completion, for the commands that talk: `gptoss chat`, `ask` and `bench`.

Stage: the client's end of a request's way, behind 7 SSE.
Owns: the OpenAI API's chunks → an answer's parts; what is wrong with a stream.
Does not know: what is asked, what is done with the answer.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Mapping
from typing import Any, Final

import httpx

from gptoss_backend.contract import CallSyntax
from gptoss_client.answer import AnswerPart, CallPart, Content, Ended, Reasoning, Usage
from gptoss_client.api_errors import ProtocolError, ServerError
from gptoss_client.queries import server_error, unreachable

_PATH: Final = "/v1/chat/completions"
# what comes is read as it is
_HEADERS: Final = {"Accept-Encoding": "identity"}
_DATA: Final = b"data:"
_DONE: Final = b"[DONE]"


def stream_chat(http: httpx.Client, body: Mapping[str, Any]) -> Generator[AnswerPart, None, None]:
    """Send a chat and yield its answer's parts. Closing the iterator closes the connection, which frees the engine.

    Raises ServerError, UnreachableError, ProtocolError.
    """
    reader = ChunkReader()
    try:
        with http.stream("POST", _PATH, json=_streamed(body), headers=_HEADERS) as response:
            if response.status_code != 200:
                response.read()
                raise server_error(response)
            for raw in response.iter_raw():
                yield from reader.feed(raw)
    except httpx.HTTPError as error:
        raise unreachable(http.base_url, error) from error
    yield reader.end()


async def stream_chat_async(http: httpx.AsyncClient, body: Mapping[str, Any]) -> AsyncGenerator[AnswerPart, None]:
    """Do as `stream_chat`, in asyncio."""
    reader = ChunkReader()
    try:
        async with http.stream("POST", _PATH, json=_streamed(body), headers=_HEADERS) as response:
            if response.status_code != 200:
                await response.aread()
                raise server_error(response)
            async for raw in response.aiter_raw():
                for part in reader.feed(raw):
                    yield part
    except httpx.HTTPError as error:
        raise unreachable(http.base_url, error) from error
    yield reader.end()


class ChunkReader:
    """Bytes of an event stream in, parts out, however the bytes were cut."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._is_done = False

    def feed(self, raw: bytes) -> Iterator[AnswerPart]:
        """Take the next bytes. Raises ServerError, ProtocolError."""
        *lines, rest = (bytes(self._line) + raw).split(b"\n")
        self._line = bytearray(rest)
        for line in lines:
            # an event of this API is one line of data; comments and event names say nothing besides
            if line.startswith(_DATA):
                yield from self._read(line.removeprefix(_DATA).strip())

    def end(self) -> Ended:
        """Return the last part. Raises ProtocolError where the stream was cut."""
        if not self._is_done or self._finish_reason is None:
            raise ProtocolError("the stream ended in the middle of the answer")
        return Ended(self._finish_reason, self._usage)

    def _read(self, data: bytes) -> Iterator[AnswerPart]:
        if data == _DONE:
            self._is_done = True
            return
        try:
            chunk = json.loads(data)
            if "error" in chunk:
                raise ServerError.of(chunk)
            if usage := chunk.get("usage"):
                cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
                self._usage = Usage(usage["prompt_tokens"], usage["completion_tokens"], cached)
            for choice in chunk.get("choices", ()):
                self._finish_reason = choice.get("finish_reason") or self._finish_reason
                yield from _parts(choice.get("delta") or {})
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ProtocolError("the stream holds what is no chunk of a chat completion") from error


def _parts(delta: Mapping[str, Any]) -> Iterable[AnswerPart]:
    if reasoning := delta.get("reasoning"):
        yield Reasoning(reasoning)
    if content := delta.get("content"):
        yield Content(content)
    for call in delta.get("tool_calls") or ():
        yield _call_part(call)


def _call_part(call: Mapping[str, Any]) -> CallPart:
    is_custom = "custom" in call
    given = call.get("custom" if is_custom else "function") or {}
    text = given.get("input" if is_custom else "arguments") or ""
    # how a custom tool's input was written is not told; to whoever sends it back it is the same
    syntax = CallSyntax.QUOTED if is_custom else CallSyntax.JSON
    return CallPart(call["index"], call.get("id") or "", given.get("name") or "", text, syntax)


def _streamed(body: Mapping[str, Any]) -> dict[str, Any]:
    return {**body, "stream": True, "stream_options": {"include_usage": True}}

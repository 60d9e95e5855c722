"""The commands' reader of a streamed chat completion."""

from __future__ import annotations

import itertools
import json

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_backend.contract import CallSyntax, ToolCall
from gptoss_client.answer import Answer, AnswerPart
from gptoss_client.api_errors import ProtocolError, ServerError
from gptoss_client.chat_stream import ChunkReader, stream_chat


def event(document: object) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


def delta(finish_reason: str | None = None, **fields: object) -> bytes:
    return event({"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]})


CALL = {"index": 0, "id": "call_1", "function": {"name": "f", "arguments": ""}}
USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 1}}
STREAM = b"".join(
    [
        delta(role="assistant", content=""),
        delta(reasoning="Hm\u2028m."),
        b": keep-alive\n\n",
        delta(content="Grüße 🌍"),
        delta(tool_calls=[CALL]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a":'}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": "1}"}}]),
        delta("tool_calls"),
        event({"choices": [], "usage": USAGE}),
        b"data: [DONE]\n\n",
    ]
)


def read(*pieces: bytes) -> Answer:
    reader = ChunkReader()
    parts: list[AnswerPart] = [part for piece in pieces for part in reader.feed(piece)]
    return Answer.of([*parts, reader.end()])


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_reader_when_the_bytes_are_cut_anywhere_then_the_answer_is_the_same(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    answer = read(*(STREAM[begin:end] for begin, end in itertools.pairwise(places)))
    assert answer.reasoning == "Hm\u2028m."
    assert answer.content == "Grüße 🌍"
    assert [(call.id, call.name, call.arguments) for call in answer.tool_calls] == [("call_1", "f", '{"a":1}')]
    assert answer.ended is not None
    assert answer.ended.finish_reason == "tool_calls"
    assert answer.ended.usage is not None
    assert (answer.ended.usage.completion_tokens, answer.ended.usage.cached_tokens) == (5, 1)


def test_reader_when_a_custom_tool_is_called_then_its_input_is_gathered() -> None:
    begun = {"index": 0, "id": "call_1", "type": "custom", "custom": {"name": "f", "input": ""}}
    more = {"index": 0, "custom": {"input": "two words"}}
    answer = read(delta(tool_calls=[begun]), delta("tool_calls", tool_calls=[more]), b"data: [DONE]\n\n")
    assert answer.tool_calls == [ToolCall("call_1", "f", "two words", CallSyntax.QUOTED)]


@pytest.mark.parametrize("cut", [b"data: [DONE]", delta("tool_calls")])
def test_reader_when_the_end_is_missing_then_the_answer_is_not_taken_for_whole(cut: bytes) -> None:
    with pytest.raises(ProtocolError, match="in the middle"):
        read(STREAM.replace(cut, b""))


def test_reader_when_the_stream_holds_an_error_then_it_is_the_servers_sentence() -> None:
    with pytest.raises(ServerError, match=r"^The model server is gone\.$") as failed:
        read(event({"error": {"message": "The model server is gone.", "code": "service_unavailable"}}))
    assert failed.value.code == "service_unavailable"


@pytest.mark.parametrize("data", [b"nonsense", b"[]", b"3", b'{"choices": [1]}', b'{"usage": {"a": 1}}'])
def test_reader_when_an_event_is_no_chunk_then_it_says_so(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="no chunk"):
        read(b"data: " + data + b"\n\n")


def test_stream_when_asked_for_then_it_is_to_come_as_it_is() -> None:
    def answer_chat(request: httpx.Request) -> httpx.Response:
        assert request.headers["Accept-Encoding"] == "identity"
        return httpx.Response(200, content=iter([STREAM]))

    with httpx.Client(base_url="http://server", transport=httpx.MockTransport(answer_chat)) as http:
        assert Answer.of(list(stream_chat(http, {}))).content == "Grüße 🌍"


def test_stream_when_the_server_sends_on_to_another_then_says_where() -> None:
    def send_on(request: httpx.Request) -> httpx.Response:
        return httpx.Response(301, headers={"Location": "https://elsewhere/"}, text="<html>Moved</html>")

    with (
        httpx.Client(base_url="http://server", transport=httpx.MockTransport(send_on)) as http,
        pytest.raises(
            ServerError, match=r"^http://server/v1/chat/completions sends on to https://elsewhere/: name"
        ) as told,
    ):
        list(stream_chat(http, {}))
    assert told.value.status == 301

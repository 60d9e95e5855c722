"""Framing, keep-alive, and how a stream begins, fails and ends, without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable

import pytest
from starlette.types import Message

from gptoss_adapter.chunks import AnswerStyle, ChunkWriter
from gptoss_adapter.content import ContentToken, ScoredContent
from gptoss_adapter.disconnect import until_disconnect
from gptoss_adapter.errors import ClientGoneError, ServiceUnavailableError
from gptoss_adapter.heads import AnswerHead, Frame
from gptoss_adapter.sse import DONE, KEEP_ALIVE, EventStream, error_event
from gptoss_backend.contract import TokenLogprob
from gptoss_backend.harmony.deltas import ContentDelta, Delta, ReasoningDelta, ToolCallDelta
from gptoss_backend.harmony.vocabulary import encoding

HEAD = AnswerHead(id="chatcmpl-1", created=5, model="gpt-oss-demo", system_fingerprint="fp_1")


class Connection:
    """An ASGI connection whose client goes away when `hang_up` is called."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self._gone = asyncio.Event()

    async def receive(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def hang_up(self) -> None:
        self._gone.set()

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent if message["type"] == "http.response.body")

    @property
    def ended(self) -> bool:
        return bool(self.sent) and self.sent[-1].get("more_body") is False


class Events:
    """A generator of events that records how it was left."""

    def __init__(self, *events: bytes | float | Exception) -> None:
        self._events = events
        self.left_by: BaseException | None = None
        self.closed = False

    async def stream(self) -> AsyncGenerator[bytes, None]:
        try:
            for event in self._events:
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, bytes):
                    yield event
                else:
                    await asyncio.sleep(event)
        except BaseException as error:
            self.left_by = error
            raise
        finally:
            self.closed = True


def run_stream(
    events: Events, *, keepalive_s: float = 60.0, meanwhile: Callable[[Connection], None] | None = None
) -> Connection:
    """Play the events to a connection; after 30 ms let `meanwhile` happen to it."""

    async def run() -> Connection:
        connection = Connection()
        if meanwhile is not None:
            asyncio.get_running_loop().call_later(0.03, meanwhile, connection)
        response = EventStream(events.stream(), keepalive_s)
        await asyncio.wait_for(response({"type": "http"}, connection.receive, connection.send), timeout=5)
        assert events.closed
        return connection

    return asyncio.run(run())


def test_stream_when_events_come_then_they_are_sent_in_order_and_the_body_ends() -> None:
    connection = run_stream(Events(b"data: 1\n\n", b"data: 2\n\n", DONE))
    start, *bodies = connection.sent
    assert start["status"] == 200
    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert headers[b"cache-control"] == b"no-cache"
    assert b"content-length" not in headers
    assert [body["body"] for body in bodies] == [b"data: 1\n\n", b"data: 2\n\n", DONE, b""]
    assert [body["more_body"] for body in bodies] == [True, True, True, False]


def test_stream_when_it_fails_before_the_first_event_then_nothing_is_sent() -> None:
    async def run() -> list[Message]:
        connection = Connection()
        response = EventStream(Events(ServiceUnavailableError("Gone.")).stream(), 60.0)
        with pytest.raises(ServiceUnavailableError):
            await response({"type": "http"}, connection.receive, connection.send)
        return connection.sent

    assert asyncio.run(run()) == []


def test_stream_when_it_fails_later_then_an_error_event_ends_it() -> None:
    error = ServiceUnavailableError("Gone.")
    connection = run_stream(Events(b"data: 1\n\n", error))
    assert connection.body == b"data: 1\n\n" + error_event(error)
    assert connection.ended


def test_stream_when_it_breaks_later_then_the_error_event_tells_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    connection = run_stream(Events(b"data: 1\n\n", ValueError("a secret")))
    document = json.loads(connection.body.split(b"data: ")[2])
    assert document["error"]["code"] == "internal_error"
    assert b"secret" not in connection.body
    assert "ValueError: a secret" in caplog.text
    assert connection.ended


def test_stream_when_silent_then_comments_keep_it_alive() -> None:
    connection = run_stream(Events(b"data: 1\n\n", 0.25, b"data: 2\n\n"), keepalive_s=0.05)
    assert connection.body.startswith(b"data: 1\n\n" + KEEP_ALIVE)
    assert 3 <= connection.body.count(KEEP_ALIVE) <= 5
    assert connection.body.endswith(b"data: 2\n\n")


def test_stream_when_the_first_event_is_late_then_a_comment_opens_it() -> None:
    connection = run_stream(Events(0.12, b"data: 1\n\n", DONE), keepalive_s=0.05)
    assert connection.body == KEEP_ALIVE * 2 + b"data: 1\n\n" + DONE


def test_stream_when_it_fails_late_without_an_event_then_an_error_event_ends_it() -> None:
    error = ServiceUnavailableError("Gone.")
    connection = run_stream(Events(0.07, error), keepalive_s=0.05)
    assert connection.body == KEEP_ALIVE + error_event(error)
    assert connection.ended


def test_stream_when_the_client_hangs_up_behind_the_opening_comment_then_the_generator_is_cancelled() -> None:
    events = Events(60.0)
    run_stream(events, keepalive_s=0.01, meanwhile=Connection.hang_up)
    assert isinstance(events.left_by, asyncio.CancelledError)


def test_stream_when_a_client_reads_slowly_then_what_keeps_it_alive_stands_where_its_number_says() -> None:
    numbers = iter(range(1000))

    def numbered() -> bytes:
        return b"%d " % next(numbers)

    async def events() -> AsyncGenerator[bytes, None]:
        for pause_s in (0.0, 0.03, 0.01, 0.0, 0.04, 0.0) * 3:
            await asyncio.sleep(pause_s)
            yield numbered()

    async def run() -> bytes:
        connection = Connection()

        async def send(message: Message) -> None:
            await asyncio.sleep(0.015 * (len(connection.sent) % 3))
            await connection.send(message)

        response = EventStream(events(), 0.01, keep_alive=numbered, opens_itself=True)
        await response({"type": "http"}, connection.receive, send)
        return connection.body

    told = [int(number) for number in asyncio.run(run()).split()]
    assert told == list(range(len(told)))
    assert len(told) > 18  # some were


def test_stream_when_it_opens_itself_then_no_silence_opens_it() -> None:
    async def run() -> list[Message]:
        connection = Connection()
        response = EventStream(Events(0.05, ServiceUnavailableError("Gone.")).stream(), 0.01, opens_itself=True)
        with pytest.raises(ServiceUnavailableError):
            await response({"type": "http"}, connection.receive, connection.send)
        return connection.sent

    assert asyncio.run(run()) == []


def test_stream_when_busy_then_no_comment_is_sent() -> None:
    busy = [event for _ in range(20) for event in (b"data: 1\n\n", 0.01)]
    assert KEEP_ALIVE not in run_stream(Events(*busy), keepalive_s=0.1).body


def test_stream_when_the_client_hangs_up_then_the_generator_is_cancelled() -> None:
    events = Events(b"data: 1\n\n", 60.0)
    run_stream(events, meanwhile=Connection.hang_up)
    assert isinstance(events.left_by, asyncio.CancelledError)


def test_stream_when_the_client_hangs_up_before_the_first_event_then_client_gone_is_raised() -> None:
    events = Events(60.0)
    with pytest.raises(ClientGoneError):
        run_stream(events, meanwhile=Connection.hang_up)
    assert isinstance(events.left_by, asyncio.CancelledError)


def test_stream_when_the_process_ends_then_the_client_is_told() -> None:
    async def run() -> Connection:
        connection = Connection()
        response = EventStream(Events(b"data: 1\n\n", 60.0).stream(), 60.0)
        serving = asyncio.create_task(response({"type": "http"}, connection.receive, connection.send))
        await asyncio.sleep(0.03)
        serving.cancel()
        await asyncio.wait([serving])
        return connection

    connection = asyncio.run(run())
    assert b"shutting down" in connection.body
    assert connection.ended


def test_until_disconnect_when_someone_else_cancels_then_it_stays_a_cancellation() -> None:
    async def wait(connection: Connection) -> None:
        async with until_disconnect(connection.receive):
            await asyncio.sleep(60)

    async def run() -> None:
        waiting = asyncio.create_task(wait(Connection()))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(run())


def test_until_disconnect_when_the_body_ends_then_the_task_can_go_on() -> None:
    async def run() -> None:
        connection = Connection()
        async with until_disconnect(connection.receive):
            await asyncio.sleep(0)
        connection.hang_up()
        await asyncio.sleep(0.01)
        with pytest.raises(ClientGoneError):
            async with until_disconnect(connection.receive):
                await asyncio.sleep(60)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    asyncio.run(run())


# --- chunks ---------------------------------------------------------------------------------------------------------


PLAIN = AnswerStyle()


def chunk_writer(*, include_usage: bool = False, style: AnswerStyle = PLAIN, index: int = 0) -> ChunkWriter:
    return ChunkWriter(Frame(HEAD, "chat.completion.chunk", include_usage=include_usage), style, index)


def parse(event: bytes) -> dict[str, object]:
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    document: dict[str, object] = json.loads(event.removeprefix(b"data: "))
    return document


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        (ContentDelta("Hi"), {"content": "Hi"}),
        (ReasoningDelta("Hm"), {"reasoning": "Hm"}),
        (ToolCallDelta(1, None, '"a"'), {"tool_calls": [{"index": 1, "function": {"arguments": '"a"'}}]}),
    ],
)
def test_chunk_when_a_delta_is_written_then_it_is_openais(delta: Delta, expected: object) -> None:
    assert parse(chunk_writer().deltas([delta])) == {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 5,
        "model": "gpt-oss-demo",
        "system_fingerprint": "fp_1",
        "choices": [{"index": 0, "delta": expected, "logprobs": None, "finish_reason": None}],
    }


@pytest.mark.parametrize("text", ['"\\\n\r\t', "\u2028\u2029\x85\x00", "日本語 🙂", "\ud800", "data: [DONE]\n\n"])
def test_chunk_when_the_text_is_awkward_then_it_stays_one_line_of_ascii(text: str) -> None:
    event = chunk_writer().deltas([ContentDelta(text)])
    assert event.isascii()
    assert len(event.splitlines()) == 2
    assert parse(event)["choices"][0]["delta"] == {"content": text}  # type: ignore[index]


def test_chunk_when_a_scored_token_is_not_ascii_then_the_event_is() -> None:
    (token,) = encoding().encode("é")
    event = chunk_writer().deltas([ScoredContent("é", (ContentToken(0, TokenLogprob(token, -0.5)),))])
    assert event.isascii()
    assert parse(event)["choices"][0]["logprobs"]["content"][0]["token"] == "é"  # type: ignore[index]


def test_chunk_when_usage_is_asked_for_then_every_chunk_has_the_field() -> None:
    writer = chunk_writer(include_usage=True)
    assert all(parse(event)["usage"] is None for event in (writer.role(), writer.finish("stop")))
    assert parse(writer.deltas([ContentDelta("Hi")]))["usage"] is None


def test_chunk_when_reasoning_is_mirrored_then_both_names_tell_it() -> None:
    event = chunk_writer(style=AnswerStyle(mirror_reasoning_content=True)).deltas([ReasoningDelta("Hm")])
    assert parse(event)["choices"][0]["delta"] == {"reasoning": "Hm", "reasoning_content": "Hm"}  # type: ignore[index]


def test_chunk_when_reasoning_is_left_out_then_nothing_is_written() -> None:
    assert chunk_writer(style=AnswerStyle(include_reasoning=False)).deltas([ReasoningDelta("Hm")]) == b""


def test_chunk_when_it_is_of_another_choice_then_it_has_its_index() -> None:
    writer = chunk_writer(index=3)
    for event in (writer.role(), writer.deltas([ContentDelta("Hi")]), writer.finish("stop")):
        assert parse(event)["choices"][0]["index"] == 3  # type: ignore[index]

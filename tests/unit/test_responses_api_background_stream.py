"""Responses that are made in the background: streamed and taken up again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from gptoss_adapter.errors import ServiceUnavailableError
from gptoss_adapter.responses.keeping.progress import LEASE_S
from support.background_responses import ENDLESS, SLOW, cancelled, resumed, retrieved, streamed, without_keepalives
from support.fake_adapter import adapter_process
from support.fake_model_server import HELLO, FakeModelServer, Pause
from support.live_app import wait_until
from support.responses_api import RESPONSES, keeping_adapter, respond, serving, settled, stream

url_and_server = keeping_adapter(max_background_responses=3)


def test_stream_when_in_the_background_then_it_tells_what_another_does_and_that_it_was_queued(
    client: httpx.Client,
) -> None:
    events, others = stream(client, background=True), stream(client)
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert kinds[3:] == [event["type"] for event in others[2:]]
    statuses = [event["response"]["status"] for event in events if "response" in event]
    assert statuses == ["queued", "queued", "in_progress", "completed"]
    assert retrieved(client, events[0]["response"]) == events[-1]["response"]


def test_stream_when_its_client_leaves_then_the_answer_is_made_all_the_same(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = SLOW
    with streamed(client) as events:
        told = next(events)["response"]
    assert settled(client, told["id"])["status"] == "completed"


def test_stream_when_it_is_taken_up_at_any_event_then_those_after_it_come_and_it_goes_on_to_the_end(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = SLOW
    with streamed(client) as events:
        told = next(events)["response"]
        rest = resumed(client, told, after=0)  # while it is made
        seen = [{"sequence_number": 0}, *without_keepalives(events)]
    assert rest == seen[1:]
    for after in range(len(seen) - 1):  # once it is over
        assert resumed(client, told, after) == seen[after + 1 :]
    assert resumed(client, told)[1:] == rest


def test_stream_when_it_is_taken_up_again_and_left_again_then_the_answer_is_made_all_the_same(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = SLOW
    with streamed(client) as events:
        told = next(events)["response"]
    with client.stream("GET", f"{RESPONSES}/{told['id']}", params={"stream": True}) as response:
        next(response.iter_lines())
    assert settled(client, told["id"])["status"] == "completed"


def test_stream_when_the_engine_is_silent_then_events_with_the_last_ones_number_keep_it_alive(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = [Pause(0.3), *HELLO]
    with streamed(client) as events:
        told = next(events)["response"]
        seen = [(event["type"], event["sequence_number"]) for event in events]
    queued, *keepalives = [one for one in seen if one[1] == 1]
    assert queued[0] == "response.queued"
    assert set(keepalives) == {("keepalive", 1)}
    others = [number for kind, number in seen if kind != "keepalive"]
    assert others == list(range(1, len(others) + 1))
    assert len(resumed(client, told)) == len(others) + 1  # none of them is of the response


def test_stream_when_it_is_taken_up_amid_a_silence_then_a_comment_keeps_it_alive_until_there_is_an_event(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = [Pause(0.3), *HELLO]
    with streamed(client) as events:
        told = next(events)["response"]
        text = client.get(f"{RESPONSES}/{told['id']}", params={"stream": True, "starting_after": 1}).text
    assert text.startswith(": keep-alive\n\n")
    assert "event: keepalive" not in text
    assert "event: response.completed\n" in text


def test_stream_when_it_fails_then_its_last_events_say_so_whenever_it_is_taken_up(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = [*HELLO[:5], ServiceUnavailableError("Gone.")]
    events = stream(client, background=True)
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert events[-2]["error"]["code"] == "service_unavailable"
    told = events[0]["response"]
    assert retrieved(client, told) == events[-1]["response"]
    assert resumed(client, told) == events
    for after in (len(events) - 3, len(events) - 2):  # before the error, and behind it
        assert resumed(client, told, after) == events[after + 1 :]


def test_stream_when_it_is_cancelled_then_its_last_event_says_so(client: httpx.Client, server: FakeModelServer) -> None:
    server.script = ENDLESS
    with streamed(client) as events:
        told = next(events)["response"]
        wait_until(lambda: retrieved(client, told)["status"] == "in_progress")
        ended = cancelled(client, told)
        *_, last = events
    # there is no event of OpenAI's for this
    assert (last["type"], last["response"]) == ("response.incomplete", ended)
    assert resumed(client, told)[-1] == last


def test_stream_when_another_adapter_of_the_same_file_made_it_or_makes_it_then_it_is_told_once_it_is_over(
    client: httpx.Client, server: FakeModelServer, store: Path
) -> None:
    server.script = SLOW
    with serving(store, FakeModelServer()) as url, httpx.Client(base_url=url) as other:
        with streamed(client) as events:
            told = next(events)["response"]
            while_made = resumed(other, told, after=2)
        assert while_made == resumed(other, told, after=2) == resumed(client, told, after=2)


def test_stream_when_its_process_was_killed_then_whoever_takes_it_up_is_told_that_it_failed(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with (
        adapter_process("endless", ADAPTER__RESPONSES_PATH=path) as one,
        httpx.Client(base_url=one.url) as client,
        streamed(client) as events,
    ):
        told = next(events)["response"]
        last = next(event for event in events if event["type"].endswith(".delta"))["sequence_number"]
        one.process.kill()
        one.process.wait()
    with closing(sqlite3.connect(path)) as connection, connection:  # time passes
        connection.execute("UPDATE under_way SET leased_until = leased_until - ?", (LEASE_S,))
    with serving(path, FakeModelServer()) as url, httpx.Client(base_url=url) as other:
        error, failed = resumed(other, told, after=last)
        assert error["error"]["message"] == failed["response"]["error"]["message"]
        assert (failed["type"], failed["response"]) == ("response.failed", settled(other, told["id"]))
        assert [event["type"] for event in resumed(other, told)] == [
            "response.created",
            "response.queued",
            "error",
            "response.failed",
        ]


@pytest.mark.parametrize(
    ("fields", "query", "param"),
    [
        ({"background": True}, {"stream": True}, "stream"),
        ({}, {"stream": True}, "stream"),
        ({"background": True}, {"starting_after": 1}, "starting_after"),
        ({"background": True}, {"stream": True, "starting_after": -1}, "starting_after"),
    ],
)
def test_stream_when_it_cannot_be_taken_up_then_400_names_the_parameter(
    client: httpx.Client, fields: dict[str, Any], query: dict[str, Any], param: str
) -> None:
    told = respond(client, **fields)
    response = client.get(f"{RESPONSES}/{told['id']}", params=query)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_stream_when_it_is_taken_up_after_an_event_that_has_not_been_then_400(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = ENDLESS
    with streamed(client) as events:
        told = next(events)["response"]
        query: dict[str, Any] = {"stream": True, "starting_after": 1000}
        response = client.get(f"{RESPONSES}/{told['id']}", params=query)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "starting_after")
        cancelled(client, told)


def test_stream_when_nothing_is_kept_under_its_id_then_404(client: httpx.Client) -> None:
    assert client.get(f"{RESPONSES}/resp_1", params={"stream": True}).status_code == 404

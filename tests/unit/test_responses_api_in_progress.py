"""Responses that are not over: told as in progress, and kept as what becomes of them."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx

from gptoss_adapter.responses.keeping.progress import LEASE_S
from support.fake_adapter import adapter_process
from support.fake_model_server import FOREVER, HELLO, FakeModelServer, Pause
from support.responses_api import (
    MODEL,
    RESPONSES,
    assert_not_found,
    keeping_adapter,
    listed,
    refusal,
    respond,
    serving,
    settled,
)

url_and_server = keeping_adapter()


@contextmanager
def begun_stream(client: httpx.Client, **fields: object) -> Iterator[dict[str, Any]]:
    """Begin a stream and yield its response as the first event tells it; then leave."""
    body = {"model": MODEL, "input": "Hi", "stream": True, **fields}
    with client.stream("POST", RESPONSES, json=body) as response:
        lines = response.iter_lines()
        assert next(lines) == "event: response.created"
        yield json.loads(next(lines).removeprefix("data: "))["response"]


def test_response_when_its_stream_has_begun_then_it_is_told_as_in_progress(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = [*HELLO[:5], FOREVER]
    with begun_stream(client) as told:
        assert client.get(f"{RESPONSES}/{told['id']}").json() == told
        assert (told["status"], told["output"], told["store"]) == ("in_progress", [], True)
        assert [item["role"] for item in listed(client, told["id"])["data"]] == ["user"]
        assert refusal(client, previous_response_id=told["id"])["code"] == "previous_response_in_progress"


def test_response_when_its_client_leaves_then_it_is_kept_as_cancelled_with_what_was_whole(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [[*HELLO[:-2], FOREVER]]
    with client.stream("POST", RESPONSES, json={"model": MODEL, "input": "Hi", "stream": True}) as response:
        events = (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: "))
        told = next(events)["response"]
        next(event for event in events if event["type"] == "response.output_text.delta")
    ended = settled(client, told["id"])
    assert (ended["status"], ended["error"], ended["completed_at"]) == ("cancelled", None, None)
    assert [item["type"] for item in ended["output"]] == ["reasoning"]
    respond(client, previous_response_id=told["id"])
    assert server.chats[1].messages[1].reasoning == "Easy."


def test_response_when_it_is_deleted_while_it_streams_then_it_stays_so_and_its_end_says_that(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = [*HELLO[:5], Pause(0.3), *HELLO[5:]]
    body = {"model": MODEL, "input": "Hi", "stream": True}
    with client.stream("POST", RESPONSES, json=body) as response:
        events = (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: "))
        told = next(events)["response"]
        assert client.delete(f"{RESPONSES}/{told['id']}").status_code == 200
        *_, last = events
    assert (last["type"], last["response"]["store"]) == ("response.completed", False)
    assert_not_found(client.get(f"{RESPONSES}/{told['id']}"), told["id"])


def test_response_when_it_is_not_to_be_kept_then_nothing_of_its_stream_is(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = [*HELLO[:5], FOREVER]
    with begun_stream(client, store=False) as told:
        assert_not_found(client.get(f"{RESPONSES}/{told['id']}"), told["id"])


def test_response_when_another_adapter_of_the_same_file_makes_it_then_it_is_in_progress_until_that_one_is_gone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "r.sqlite"
    with (
        adapter_process("endless", ADAPTER__RESPONSES_PATH=path) as one,
        httpx.Client(base_url=one.url) as client,
        begun_stream(client) as told,
    ):
        with serving(path, FakeModelServer()) as url, httpx.Client(base_url=url) as other:
            assert other.get(f"{RESPONSES}/{told['id']}").json() == told
        one.process.kill()
        one.process.wait()
    with closing(sqlite3.connect(path)) as connection, connection:  # time passes
        [(until,)] = connection.execute("SELECT leased_until FROM under_way")
        connection.execute("UPDATE under_way SET leased_until = leased_until - ?", (LEASE_S,))
    assert 0 < until - time.time() <= LEASE_S
    with serving(path, FakeModelServer()) as url, httpx.Client(base_url=url) as other:
        failed = settled(other, told["id"])
        assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
        assert failed["error"]["message"] == "The server ended before this response did."
        respond(other, previous_response_id=told["id"])


def test_response_when_its_process_is_told_to_end_then_it_is_kept_as_failed(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    settings = {"SERVER__SHUTDOWN_TIMEOUT_S": 2, "ADAPTER__RESPONSES_PATH": path}
    with (
        adapter_process("endless", **settings) as one,
        httpx.Client(base_url=one.url) as client,
        begun_stream(client) as told,
    ):
        one.process.terminate()
        assert one.process.wait(timeout=10) == 0
    with serving(path, FakeModelServer()) as url, httpx.Client(base_url=url) as other:
        failed = settled(other, told["id"])
    assert (failed["status"], failed["error"]["message"]) == ("failed", "The server is shutting down.")

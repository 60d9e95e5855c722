"""POST /v1/chat/completions where it fails, and where its client goes away."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from gptoss_adapter.errors import InvalidRequestError, ServiceUnavailableError, TooManyRequestsError
from gptoss_adapter.inference import GenerationStep
from gptoss_backend.contract import FinishReason
from gptoss_backend.settings_sources import load_settings
from support.chat_api import CHAT, ask, joined, stream
from support.fake_model_server import FOREVER, HELLO, STARTED, FakeModelServer, Scene, finished
from support.live_app import chat_body, wait_until

SETTINGS = load_settings({"model": "demo", "adapter": {"keepalive_s": 0.1}}, environ={})


def outcome_count(client: httpx.Client, outcome: str) -> float:
    return metric(client, f'gptoss_requests_total{{model="gpt-oss-demo",outcome="{outcome}",profile="balanced"}}')


def metric(client: httpx.Client, series: str) -> float:
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{series} ")]
    return float(lines[0].split()[-1]) if lines else 0.0


def in_flight(client: httpx.Client) -> float:
    labels = '{model="gpt-oss-demo",profile="balanced"}'
    return sum(metric(client, f"gptoss_num_requests_{state}{labels}") for state in ("waiting", "running"))


# --- failures -------------------------------------------------------------------------------------------------------

ENDINGS: list[tuple[list[Scene], str]] = [
    ([ServiceUnavailableError("Gone.")], "service_unavailable"),
    ([], "internal_error"),
    ([ValueError("a secret")], "internal_error"),
    ([GenerationStep([], finished(FinishReason.CANCELLED, 2))], "service_unavailable"),
]


@pytest.mark.parametrize(("ending", "code"), ENDINGS)
def test_stream_when_it_fails_after_tokens_then_an_error_event_ends_it(
    client: httpx.Client, server: FakeModelServer, ending: list[Scene], code: str
) -> None:
    server.script = [*HELLO[:5], *ending]
    errors_before = outcome_count(client, "error")
    documents = stream(client)
    assert joined(documents[:-1], "reasoning") == "Easy"
    assert documents[-1]["error"]["code"] == code
    assert server.streams[0].cancelled
    wait_until(lambda: outcome_count(client, "error") == errors_before + 1)


@pytest.mark.parametrize(("ending", "code"), ENDINGS)
def test_answer_when_it_fails_after_tokens_then_it_is_an_error(
    client: httpx.Client, server: FakeModelServer, ending: list[Scene], code: str
) -> None:
    server.script = [*HELLO[:5], *ending]
    response = client.post(CHAT, json=chat_body())
    assert response.status_code in (500, 503)
    assert response.json()["error"]["code"] == code
    assert "secret" not in response.text


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequestError("Odd."), 400),
        (TooManyRequestsError("Full."), 429),
        (ServiceUnavailableError("Gone."), 503),
        (ValueError("a secret"), 500),
    ],
)
@pytest.mark.parametrize("before", [[], [STARTED]], ids=["queue", "prefill"])
def test_request_when_it_fails_before_the_first_token_then_plain_json_with_its_status(
    client: httpx.Client,
    server: FakeModelServer,
    before: list[Scene],
    streamed: bool,
    error: Exception,
    status: int,
) -> None:
    server.script = [*before, error]
    response = client.post(CHAT, json=chat_body(stream=streamed))
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    assert "secret" not in response.text


def test_stream_when_the_first_response_is_not_started_then_500(client: httpx.Client, server: FakeModelServer) -> None:
    server.script = HELLO[1:]
    assert client.post(CHAT, json=chat_body(stream=True)).status_code == 500


# --- the client goes away -------------------------------------------------------------------------------------------


@contextmanager
def sent(url: str, body: dict[str, Any]) -> Iterator[socket.socket]:
    """Send the request on a bare socket, and close the connection at the end."""
    request = httpx.Request("POST", url + CHAT, json=body)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection((request.url.host, request.url.port or 80)) as connection:
        connection.sendall(f"{head}Content-Length: {len(request.content)}\r\n\r\n".encode() + request.content)
        yield connection


def hang_up_after(url: str, body: dict[str, Any], server: FakeModelServer, marker: bytes | None) -> None:
    """Send the request, wait until it is submitted and `marker` came, and close the connection."""
    num_before = len(server.streams)
    with sent(url, body) as connection:
        wait_until(lambda: len(server.streams) > num_before)
        received = b""
        while marker is not None and marker not in received:
            piece = connection.recv(4096)
            assert piece, received
            received += piece


@pytest.mark.parametrize(
    ("streamed", "script", "marker"),
    [
        (True, [*HELLO[:5], FOREVER], b"reasoning"),
        (True, [STARTED, FOREVER], b"keep-alive"),
        (True, [FOREVER], None),
        (False, [FOREVER], None),
        (False, [*HELLO[:5], FOREVER], None),
    ],
    ids=["streaming", "prefill", "queued", "whole-queued", "whole"],
)
def test_client_when_it_goes_away_then_the_generation_is_cancelled_at_once(
    client: httpx.Client, server: FakeModelServer, streamed: bool, script: list[Scene], marker: bytes | None
) -> None:
    server.script = script
    cancelled_before = outcome_count(client, "cancelled")
    hang_up_after(str(client.base_url).rstrip("/"), chat_body(stream=streamed), server, marker)
    assert wait_until(lambda: server.streams[0].abandoned) < 0.25
    wait_until(lambda: outcome_count(client, "cancelled") == cancelled_before + 1)
    assert in_flight(client) == 0


@pytest.mark.parametrize("fields", [{"stream": True}, {}, {"n": 3}], ids=["streamed", "whole", "several"])
def test_client_when_it_goes_away_before_its_prompt_is_there_then_nobody_waits_for_that(
    client: httpx.Client, server: FakeModelServer, fields: dict[str, Any]
) -> None:
    server.preprocess_takes_s = 60.0
    with sent(str(client.base_url).rstrip("/"), chat_body(**fields)):
        wait_until(lambda: server.num_rendering == 1)
    assert wait_until(lambda: server.num_rendering == 0) < 0.25
    assert server.streams == []


def test_client_when_a_hundred_go_away_then_nothing_stays_in_flight(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = [*HELLO[:5], FOREVER]
    for _ in range(100):
        hang_up_after(str(client.base_url).rstrip("/"), chat_body(stream=True), server, b"reasoning")
    wait_until(lambda: len(server.streams) == 100 and all(one.abandoned for one in server.streams))
    wait_until(lambda: in_flight(client) == 0)


def test_turn_when_it_ends_by_itself_then_its_stream_is_read_to_the_end(
    client: httpx.Client, server: FakeModelServer
) -> None:
    ask(client)
    stream(client)
    wait_until(lambda: all(one.ended for one in server.streams))
    assert not any(one.abandoned for one in server.streams)

"""A client that goes away frees its place in the engine at once."""

from __future__ import annotations

import socket
import time

import httpx
import pytest

from support.live_server import LiveServer, wait_until

MODEL = "gpt-oss-demo"
RUNNING = "gptoss_engine_num_requests_running"
CANCELLED = "gptoss_engine_requests_cancelled_total"
ENDLESS = {"model": MODEL, "messages": [{"role": "user", "content": "count"}], "max_tokens": 50_000, "ignore_eos": True}
DEADLINE_S = 0.25


def freed_within_s(server: LiveServer) -> float:
    """Wait until the engine runs nothing; returns the seconds."""
    return wait_until(lambda: server.triton_metric(RUNNING) == 0, period_s=0.005)


def test_stream_when_the_connection_is_closed_then_the_engine_is_free_within_250_ms(server: LiveServer) -> None:
    before = server.triton_metric(CANCELLED)
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=ENDLESS | {"stream": True}) as answer:
        lines = answer.iter_lines()
        for _ in range(20):
            next(lines)
        wait_until(lambda: server.triton_metric(RUNNING) == 1)
    assert freed_within_s(server) < DEADLINE_S
    assert server.triton_metric(CANCELLED) == before + 1


@pytest.mark.parametrize("stream", [False, True])
def test_request_when_the_socket_is_reset_then_the_engine_is_free_within_250_ms(
    server: LiveServer, stream: bool
) -> None:
    body = httpx.Request("POST", f"{server.url}/v1/chat/completions", json=ENDLESS | {"stream": stream})
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"{head}{len(body.content)}\r\n\r\n".encode() + body.content)
        wait_until(lambda: server.triton_metric(RUNNING) == 1)
        time.sleep(0.2)
        # with zero linger, closing sends a reset in place of a goodbye
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert freed_within_s(server) < DEADLINE_S


def test_requests_when_clients_leave_before_they_are_answered_then_the_server_lives(server: LiveServer) -> None:
    body = httpx.Request("POST", f"{server.url}/v1/chat/completions", json=ENDLESS).content
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
    for index in range(300):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
            time.sleep(index % 4 * 0.002)
    assert freed_within_s(server) < 5.0
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=ENDLESS | {"max_tokens": 2}, timeout=60.0)
    assert answer.status_code == 200

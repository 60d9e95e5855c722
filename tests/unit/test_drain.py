"""How the adapter's process ends: real signals, real sockets, a scripted model behind it."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable

import httpx
import pytest

from support.fake_adapter import FakeAdapter, adapter_process
from support.live_app import chat_body, wait_until

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


class Client:
    """A client in a thread of its own."""

    def __init__(self, adapter: FakeAdapter, path: str = CHAT, **fields: object) -> None:
        asked = {"model": "gpt-oss-demo", "input": "Hi"} if path == RESPONSES else chat_body()
        self._request = (f"{adapter.url}{path}", {**asked, **fields})
        self.status = 0
        self.text = ""
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        url, body = self._request
        with httpx.stream("POST", url, json=body, timeout=20) as response:
            self.status = response.status_code
            for text in response.iter_text():
                self.text += text

    def join(self) -> None:
        self._thread.join(timeout=20)
        assert not self._thread.is_alive()


def under_way(adapter: FakeAdapter) -> int:
    num: int = httpx.get(f"{adapter.url}/health").json()["requests_under_way"]
    return num


def ended(adapter: FakeAdapter, timeout_s: float = 10.0) -> float:
    """Wait for the process's end and return how long it took."""
    begun = time.monotonic()
    assert adapter.process.wait(timeout=timeout_s) == 0
    return time.monotonic() - begun


def test_drain_when_told_to_end_then_a_stream_finishes_and_newcomers_are_sent_away() -> None:
    with adapter_process("slow") as adapter:
        client = Client(adapter, stream=True)
        wait_until(lambda: "Easy" in client.text)
        adapter.process.terminate()
        wait_until(lambda: httpx.get(f"{adapter.url}/health/ready").status_code == 503)

        refused = httpx.post(f"{adapter.url}{CHAT}", json=chat_body())
        health = httpx.get(f"{adapter.url}/health")
        live = httpx.get(f"{adapter.url}/health/live")

        client.join()
        ended(adapter)
    assert refused.status_code == 503
    assert (refused.headers["retry-after"], refused.headers["connection"]) == ("5", "close")
    assert refused.json()["error"]["code"] == "service_unavailable"
    assert (health.status_code, health.json()["status"]) == (503, "draining")
    assert live.status_code == 200
    assert "Hello" in client.text
    assert client.text.endswith("data: [DONE]\n\n")


def test_drain_when_the_time_is_up_then_each_kind_of_answer_ends_with_an_error_of_its_own() -> None:
    with adapter_process("endless", SERVER__SHUTDOWN_TIMEOUT_S=2, ADAPTER__RESPONSES_PATH="':memory:'") as adapter:
        chat, response = Client(adapter, stream=True), Client(adapter, RESPONSES, stream=True)
        whole = Client(adapter)
        wait_until(lambda: under_way(adapter) == 3 and "Easy" in chat.text and "Easy" in response.text)
        adapter.process.terminate()
        took_s = ended(adapter)
        for client in (chat, response, whole):
            client.join()
    assert 0.9 < took_s < 5.0
    last = json.loads(chat.text.rstrip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["code"] == "service_unavailable"
    name, data = response.text.rstrip().split("\n\n")[-1].split("\n")
    failed = json.loads(data.removeprefix("data: "))
    assert name == "event: response.failed"
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"]["message"] == "The server is shutting down."
    assert whole.status == 503
    assert json.loads(whole.text)["error"]["code"] == "service_unavailable"


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_drain_when_interrupted_some_time_after_the_first_signal_then_it_ends_at_once(first: signal.Signals) -> None:
    with adapter_process("endless") as adapter:
        client = Client(adapter, stream=True)
        wait_until(lambda: "Easy" in client.text)
        adapter.process.send_signal(first)
        wait_until(lambda: httpx.get(f"{adapter.url}/health/ready").status_code == 503)
        time.sleep(0.6)
        adapter.process.send_signal(signal.SIGINT)
        assert ended(adapter) < 3.0
        client.join()
    assert '"code":"service_unavailable"' in client.text


def test_drain_when_others_pass_the_same_wish_on_then_a_stream_still_has_its_time() -> None:
    with adapter_process("slow") as adapter:
        client = Client(adapter, stream=True)
        wait_until(lambda: "Easy" in client.text)
        adapter.process.send_signal(signal.SIGINT)
        adapter.process.send_signal(signal.SIGINT)  # within the same moment
        wait_until(lambda: httpx.get(f"{adapter.url}/health/ready").status_code == 503)
        time.sleep(0.6)
        adapter.process.terminate()  # as systemd does to all of a service, and its supervisor after it
        client.join()
        ended(adapter)
    assert client.text.endswith("data: [DONE]\n\n")


def sent(adapter: FakeAdapter, data: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", adapter.port), timeout=10)
    client.sendall(data)
    return client


@pytest.mark.parametrize(
    "left_open",
    [b"", b"GET /health HT", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"],
    ids=["idle", "half a head", "half a body"],
)
def test_drain_when_nothing_was_asked_for_yet_then_nobody_is_waited_for(left_open: bytes) -> None:
    with adapter_process() as adapter, sent(adapter, left_open):
        time.sleep(0.2)
        adapter.process.terminate()
        assert ended(adapter) < 4.0


def test_drain_when_a_client_asks_on_an_old_connection_then_it_is_sent_away_and_the_connection_closed() -> None:
    with adapter_process("slow") as adapter, httpx.Client(base_url=adapter.url) as client:
        assert client.get("/v1/models").status_code == 200
        stream = Client(adapter, stream=True)
        wait_until(lambda: "Easy" in stream.text)
        adapter.process.terminate()
        reachable: Callable[[], bool] = lambda: client.get("/v1/models").status_code == 503  # noqa: E731
        wait_until(reachable)
        stream.join()
        ended(adapter)

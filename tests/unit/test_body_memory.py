"""What of a request's body stays in memory while it is answered."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest

from gptoss_adapter.app import create_app
from gptoss_backend.settings_sources import load_settings
from support.fake_model_server import FOREVER, HELLO, FakeModelServer
from support.live_app import chat_body, live, wait_until

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
NUM_REQUESTS, BODY_BYTES = 4, 4 * 1024 * 1024


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_body_when_its_answer_is_under_way_then_it_is_no_longer_in_memory(path: str, stream: bool) -> None:
    server = FakeModelServer(script=[*HELLO[:5], FOREVER])
    asked = {"model": "gpt-oss-demo", "input": "Hi"} if path == RESPONSES else chat_body()
    body = httpx.Request("POST", "http://x", json={**asked, "stream": stream}).content.ljust(BODY_BYTES)

    def ask(url: str) -> None:
        with httpx.Client(timeout=30) as client:
            headers = {"Content-Type": "application/json"}
            with suppress(httpx.TransportError), client.stream("POST", url, content=body, headers=headers) as told:
                told.read()

    settings = load_settings({"model": "demo", "adapter": {"responses_path": ":memory:"}}, environ={})
    with ThreadPoolExecutor(NUM_REQUESTS) as clients, live(create_app(settings, model_server=server)) as url:
        tracemalloc.start()
        try:
            for _ in range(NUM_REQUESTS):
                clients.submit(ask, f"{url}{path}")
            wait_until(lambda: len(server.streams) == NUM_REQUESTS, timeout_s=20)
            held_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert held_bytes < NUM_REQUESTS * BODY_BYTES / 2

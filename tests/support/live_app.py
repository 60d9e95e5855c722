"""The adapter's app behind a real socket, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp


def wait_until(condition: Callable[[], bool], timeout_s: float = 5.0) -> float:
    """Wait until the condition holds and return how long it took, in seconds."""
    begun = time.perf_counter()
    while not condition():
        assert time.perf_counter() - begun < timeout_s, "waited in vain"
        time.sleep(0.002)
    return time.perf_counter() - begun


@contextmanager
def live(app: ASGIApp, shutdown_timeout_s: int = 1) -> Iterator[str]:
    """Serve the app on a free port and yield its base URL."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=shutdown_timeout_s,
    )
    server = _Server(config)
    thread = threading.Thread(target=server.run, name="live-app")
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), timeout_s=30)
        assert server.started, "the app did not start"
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive(), "the app did not end"


class _Server(uvicorn.Server):
    """Ends when it is told to, where uvicorn looks ten times a second."""

    async def main_loop(self) -> None:
        await self.on_tick(0)
        while not self.should_exit:
            await asyncio.sleep(0.005)


def chat_body(**fields: object) -> dict[str, Any]:
    """Return a small valid request with `fields` added or replaced."""
    return {"model": "gpt-oss-demo", "messages": [{"role": "user", "content": "Hi"}], **fields}


def sse_documents(response: httpx.Response) -> list[Any]:
    """Return the parsed events of a whole stream, `[DONE]` as that string, comments left out."""
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("\n\n")
    data = [event.removeprefix("data: ") for event in response.text.split("\n\n")[:-1] if not event.startswith(":")]
    return [event if event == "[DONE]" else json.loads(event) for event in data]

"""Noticing that the client has gone.

Stage: 1 route and 7 SSE: whatever waits for the model waits inside `until_disconnect`.
Owns: the watch on the connection.
Does not know: what it interrupts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive

from gptoss_adapter.errors import ClientGoneError


@asynccontextmanager
async def until_disconnect(receive: Receive) -> AsyncIterator[None]:
    """Run the body; cancel it and raise ClientGoneError when the client closes the connection.

    receive: the request's channel, its body read to the end. One task watches it for as long as the body runs.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 (a coroutine always runs in one)
    cancellations_before = task.cancelling()
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watcher = asyncio.create_task(watch(), name="watch-disconnect")
    try:
        yield
    except asyncio.CancelledError:
        # as in asyncio.timeout: the cancellation is ours to turn only if nobody else asked for one too
        if gone and task.cancelling() - 1 <= cancellations_before:
            raise ClientGoneError from None
        raise
    finally:
        watcher.cancel()
        if gone:
            task.uncancel()

"""A response's hold on its conversation where whoever asked for it goes away meanwhile."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from gptoss_adapter.responses.keeping.database import ResponseDatabase
from gptoss_adapter.responses.keeping.holds import Holds
from gptoss_adapter.responses.keeping.store import ResponseStore
from gptoss_adapter.responses.keeping.store_thread import StoreThread


@pytest.mark.parametrize("wait_s", [0.0, 0.02])
def test_hold_when_it_is_cancelled_while_it_is_written_then_the_conversation_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_s: float
) -> None:
    take = Holds.take

    def take_slowly(holds: Holds, conversation_id: str, response_id: str) -> None:
        time.sleep(0.05)
        take(holds, conversation_id, response_id)

    async def run() -> None:
        thread = StoreThread(lambda: ResponseDatabase(tmp_path / "r.sqlite", keep_s=60.0, max_bytes=1024 * 1024))
        store = ResponseStore(thread, max_read_bytes=1024)
        conversations = store.conversations
        created = await conversations.create({}, [])
        _, place = await conversations.read(created.id)
        monkeypatch.setattr(Holds, "take", take_slowly)
        first = asyncio.create_task(conversations.hold(place, "resp_1"))
        await asyncio.sleep(wait_s)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await conversations.hold(place, "resp_2")  # raises where another holds it
        await store.close()

    asyncio.run(run())

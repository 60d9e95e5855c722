"""Responses in the background that are ended before they have done anything."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace
from typing import Any, cast

from gptoss_adapter.context import begin_record
from gptoss_adapter.drain import Drain
from gptoss_adapter.responses.answering import Answering
from gptoss_adapter.responses.background import BackgroundResponses
from gptoss_adapter.responses.keeping.database import ResponseDatabase
from gptoss_adapter.responses.keeping.sqlite_file import IN_MEMORY
from gptoss_adapter.responses.keeping.store import ResponseStore
from gptoss_adapter.responses.keeping.store_thread import StoreThread
from gptoss_adapter.schemas.response_answers import ResponseObject

BEGUN = ResponseObject.model_construct(id="resp_1", previous_response_id=None, output=[])


class IdleAnswering:
    """One that is kept nowhere and answers nothing."""

    response = BEGUN
    events = None

    async def hold_conversation(self) -> None: ...

    async def begin_to_keep(self) -> None: ...


def store_in_memory() -> ResponseStore:
    return ResponseStore(
        StoreThread(lambda: ResponseDatabase(IN_MEMORY, keep_s=math.inf, max_bytes=2**20)), max_read_bytes=2**20
    )


def test_response_when_it_is_cancelled_before_its_first_step_then_its_key_has_its_place_again() -> None:
    async def run() -> list[str]:
        background = BackgroundResponses(cast(ResponseStore, SimpleNamespace()), Drain(), max_under_way=1)
        record, ended = begin_record(None), list[str]()
        record.counted.callback(ended.append, "counted")
        begun = await background.begin(cast(Answering, IdleAnswering()), record, streamed=False)
        await begun.cancel()
        assert background.find(BEGUN.id) is None
        return ended

    assert asyncio.run(run()) == ["counted"]


def test_store_when_a_response_is_lost_then_it_says_so_once_and_forgets_it() -> None:
    async def run() -> list[Any]:
        begin_record(None)
        store = store_in_memory()
        await store.begin(BEGUN, ())
        told = [await store.renew()]
        await store.delete(BEGUN.id)
        told += [await store.renew(), await store.renew()]
        await store.close()
        return told

    assert asyncio.run(run()) == [set(), {BEGUN.id}, set()]

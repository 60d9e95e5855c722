"""The events of a response that are remembered, so that its stream can be taken up again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from gptoss_adapter.errors import InvalidRequestError
from gptoss_adapter.responses import event_log
from gptoss_adapter.responses.event_log import EventLog, events_after


def numbers(framed: bytes) -> list[int]:
    return [int(part.split(b",")[0]) for part in framed.split(b'"sequence_number":')[1:]]


def write(log: EventLog, num_events: int, num_chars: int = 100) -> None:
    for _ in range(num_events):  # what chance has made cannot be packed
        log.write([("response.output_text.delta", {"delta": random.randbytes(num_chars // 2).hex() + "\n\n"})])


async def taken(log: EventLog, after: int, num_events: int) -> list[int]:
    found: list[int] = []
    events: AsyncIterator[tuple[bytes, int]] = log.after(after)
    async for framed, last in events:
        found += numbers(framed)
        assert found[-1] == last
        if len(found) >= num_events:
            break
    return found


def test_log_when_it_is_long_then_every_event_is_found_by_its_number() -> None:
    log = EventLog()
    write(log, 3000)

    async def check() -> None:
        for after in (-1, 0, 1, 500, 2000, 2998):
            assert await taken(log, after, 2999 - after) == list(range(after + 1, 3000))

    asyncio.run(check())
    chunks = log.chunks()
    assert len(chunks) > 5
    assert [number for chunk in chunks for number in numbers(events_after(-1 + chunk.first_number, chunk)[0])] == list(
        range(3000)
    )


def test_log_when_more_comes_then_whoever_waits_is_given_it() -> None:
    async def check() -> list[int]:
        log = EventLog()
        write(log, 2)
        waiting = asyncio.create_task(taken(log, 1, 3))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        write(log, 3)
        return await asyncio.wait_for(waiting, 1.0)

    assert asyncio.run(check()) == [2, 3, 4]


def test_log_when_the_events_are_too_many_then_the_first_are_forgotten_and_whoever_asks_for_them_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_log, "_MAX_PACKED_BYTES", 100_000)
    log = EventLog()
    write(log, 5000)
    chunks = log.chunks()
    assert sum(len(chunk.packed) for chunk in chunks) < 150_000
    first = chunks[0].first_number
    assert first > 0
    assert asyncio.run(taken(log, first - 1, 5000 - first)) == list(range(first, 5000))
    with pytest.raises(InvalidRequestError, match=f"The events from 1 to {first - 1} are not kept"):
        asyncio.run(taken(log, 0, 1))
    with pytest.raises(InvalidRequestError, match="are not kept"):
        events_after(0, chunks[0])

"""Several answers at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from gptoss_adapter.together import gather, interleave


class Source:
    """Yields its items, each after a while, and records that it was closed."""

    def __init__(self, *items: bytes | float | Exception) -> None:
        self._items = items
        self.num_yielded = 0
        self.closed = False

    async def stream(self) -> AsyncGenerator[bytes, None]:
        try:
            for item in self._items:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, bytes):
                    self.num_yielded += 1
                    yield item
                else:
                    await asyncio.sleep(item)
        finally:
            self.closed = True


async def read(*sources: Source) -> list[bytes]:
    return [item async for item in interleave([source.stream() for source in sources])]


@pytest.mark.parametrize("num_others", [0, 1, 5])
def test_sources_when_interleaved_then_all_comes_and_each_keeps_its_order(num_others: int) -> None:
    sources = [Source(0.01, b"a1", 0.02, b"a2"), *(Source(b"b1", b"b2") for _ in range(num_others))]
    items = asyncio.run(read(*sources))
    assert [item for item in items if item.startswith(b"a")] == [b"a1", b"a2"]
    assert len(items) == 2 + 2 * num_others
    assert items[-1] == b"a2"
    assert all(source.closed for source in sources)


@pytest.mark.parametrize("num_others", [0, 2])
def test_source_when_it_fails_then_the_others_end_and_its_error_is_raised(num_others: int) -> None:
    others = [Source(b"b1", 60.0) for _ in range(num_others)]
    with pytest.raises(ValueError, match="broken"):
        asyncio.run(read(Source(0.01, ValueError("broken")), *others))
    assert all(source.closed for source in others)


@pytest.mark.parametrize("num_others", [0, 2])
def test_reader_when_it_goes_then_every_source_is_closed(num_others: int) -> None:
    sources = [Source(b"a1", 60.0) for _ in range(1 + num_others)]

    async def run() -> None:
        async with aclosing(interleave([source.stream() for source in sources])) as items:
            await anext(items)

    asyncio.run(run())
    assert all(source.closed for source in sources if source.num_yielded)


def test_reader_when_it_is_slow_then_no_source_runs_ahead() -> None:
    sources = [Source(*[b"x"] * 100) for _ in range(3)]

    async def run() -> None:
        async with aclosing(interleave([source.stream() for source in sources])) as items:
            await anext(items)
            await asyncio.sleep(0.02)

    asyncio.run(run())
    assert sum(source.num_yielded for source in sources) <= 6


def test_answers_when_gathered_then_they_come_in_their_order() -> None:
    async def answer(number: int) -> int:
        await asyncio.sleep(0.01 * (3 - number))
        return number

    assert asyncio.run(gather([answer(number) for number in range(3)])) == [0, 1, 2]


def test_answer_when_it_fails_then_the_others_are_cancelled_and_its_error_is_raised() -> None:
    ended: list[str] = []

    async def fail() -> None:
        await asyncio.sleep(0.01)
        raise ValueError("broken")

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(gather([wait(), fail(), wait()]))
    assert ended == ["cancelled", "cancelled"]

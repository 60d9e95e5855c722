"""Several answers of one request at once: where one fails, all end.

Stage: 7, around the answers.
Owns: their tasks.
Does not know: what the answers are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


async def gather(answers: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run them together and return their results in order. Raises what the first to fail raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer) for answer in answers]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def interleave(sources: Sequence[AsyncGenerator[bytes, None]]) -> AsyncGenerator[bytes, None]:
    """Yield what each source yields, in the order in which they do. Raises what the first to fail raised.

    Closes the sources. None of them runs ahead of the reader by more than an item.
    """
    if len(sources) == 1:  # no task and no queue between the model and the client
        async with aclosing(sources[0]):
            async for item in sources[0]:
                yield item
        return
    arrived: asyncio.Queue[_Arrival] = asyncio.Queue()
    tasks = [asyncio.create_task(_pump(source, arrived)) for source in sources]
    try:
        num_open = len(tasks)
        while num_open:
            item_or_end, taken = await arrived.get()
            taken.release()
            if isinstance(item_or_end, Exception):
                raise item_or_end
            if item_or_end is None:
                num_open -= 1
            else:
                yield item_or_end
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Arrival(NamedTuple):
    item_or_end: bytes | Exception | None
    taken: asyncio.Semaphore
    """Released once the reader has it."""


async def _pump(source: AsyncGenerator[bytes, None], arrived: asyncio.Queue[_Arrival]) -> None:
    """Put all that the source yields, then None, or the error that ended it."""
    taken = asyncio.Semaphore(0)
    end: Exception | None = None
    try:
        async with aclosing(source):
            async for item in source:
                # put at once: a queue with too little room lets a later one in before those that wait
                arrived.put_nowait(_Arrival(item, taken))
                await taken.acquire()
    except Exception as error:  # noqa: BLE001 (raised again where the items are read)
        end = error
    arrived.put_nowait(_Arrival(end, taken))

"""How fast a server answers at several numbers of concurrent chats.

Stage: the client's end of a request's way.
Owns: what is asked, for how long, what counts.
Does not know: how figures are shown.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from gptoss_client.answer import AnswerPart, Ended
from gptoss_client.api_errors import ClientError

Stream = Callable[[dict[str, Any]], AsyncGenerator[AnswerPart, None]]

_QUESTIONS: Final = (
    "What is a GPU good for?",
    "Name three colours and where one sees them.",
    "How does one boil an egg?",
    "Tell of a day by the sea.",
    "Why is the sky blue?",
)
_GRACE: Final = 1.0
"""An answer under way at a level's end has so many times the level's length to end."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured."""

    concurrencies: tuple[int, ...]
    seconds: float
    """Of each level; its last answers may take as long again."""
    body: dict[str, Any]
    """What each request says besides its messages."""


@dataclass(slots=True)
class Level:
    """What was seen at one concurrency."""

    concurrency: int
    ttft_s: list[float] = field(default_factory=list)
    """Request sent to the first part of the answer, of each whole answer."""
    stream_tokens_per_s: list[float] = field(default_factory=list)
    """Of each whole answer, the wait for its first token included: parts may hold several tokens, so that the first
    part's moment says little about a token's pace."""
    num_tokens: int = 0
    """Of the whole answers."""
    num_errors: int = 0
    num_unfinished: int = 0
    """Answers left when the time was up."""
    first_error: str | None = None
    elapsed_s: float = 0.0
    """The level's begin to the end of its last whole answer."""

    @property
    def num_answers(self) -> int:
        """Whole answers."""
        return len(self.ttft_s)

    @property
    def tokens_per_s(self) -> float:
        """Of all chats together."""
        return self.num_tokens / self.elapsed_s if self.elapsed_s else 0.0


async def measure(plan: Plan, stream: Stream, done: Callable[[Level], None]) -> list[Level]:
    """Return what was seen at each concurrency; tells `done` of each as it ends. Takes at most twice the plan's time.

    Raises ClientError where the server does not answer even once.
    """
    await _first_answer(plan, stream)
    levels = []
    for concurrency in plan.concurrencies:
        level = await _measure_level(plan, stream, concurrency)
        levels.append(level)
        done(level)
    return levels


async def _first_answer(plan: Plan, stream: Stream) -> None:
    """Let the server warm up, and fail at once where it cannot answer at all."""
    try:
        async with asyncio.timeout(plan.seconds * (1 + _GRACE)):
            async for _ in stream(_request(plan, 0)):
                pass
    except TimeoutError as error:
        raise ClientError("the first answer did not end in time: more --seconds or fewer --max-tokens") from error


async def _measure_level(plan: Plan, stream: Stream, concurrency: int) -> Level:
    level, begun_s = Level(concurrency), time.perf_counter()

    async def chat_on(chatter: int) -> None:
        turn = 0
        while time.perf_counter() - begun_s < plan.seconds:
            try:
                await _take_answer(stream(_request(plan, chatter + turn * concurrency)), level, begun_s)
            except ClientError as error:
                level.num_errors += 1
                level.first_error = level.first_error or str(error)
                await asyncio.sleep(0.1)  # a server that refuses is not to be flooded
            turn += 1

    chatters = [asyncio.create_task(chat_on(chatter)) for chatter in range(concurrency)]
    _, late = await asyncio.wait(chatters, timeout=plan.seconds * (1 + _GRACE))
    for task in late:
        task.cancel()
    outcomes = await asyncio.gather(*chatters, return_exceptions=True)
    level.num_unfinished = len(late)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return level


async def _take_answer(parts: AsyncGenerator[AnswerPart, None], level: Level, begun_s: float) -> None:
    sent_s = time.perf_counter()
    first_s: float | None = None
    async for part in parts:
        now_s = time.perf_counter()
        if not isinstance(part, Ended):
            first_s = first_s or now_s
            continue
        num_tokens = part.usage.completion_tokens if part.usage else 0
        first_s = first_s or now_s
        level.ttft_s.append(first_s - sent_s)
        level.stream_tokens_per_s.append(num_tokens / (now_s - sent_s))
        level.num_tokens += num_tokens
        level.elapsed_s = now_s - begun_s


def _request(plan: Plan, number: int) -> dict[str, Any]:
    # the number keeps the prompts apart, so that none is answered from a cache
    question = f"({number}) {_QUESTIONS[number % len(_QUESTIONS)]}"
    return {**plan.body, "messages": [{"role": "user", "content": question}]}

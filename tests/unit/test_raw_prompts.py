"""Text to tokens in the adapter."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gptoss_adapter import raw_prompts
from gptoss_adapter.raw_prompts import decode_text, encode_text, text_names
from gptoss_backend.harmony.runs import cut_long_runs
from gptoss_backend.harmony.vocabulary import encoding

WORDS = [
    "the",
    "Fox",
    "it's",
    "42",
    "naïve",
    "日本語",
    "🧑‍🚀",
    "\n",
    "  ",
    "x_y",
    "<|end|>",
    "don't",
    "a.b",
    "ÉTÉ",
    "a" * 700,
    "\t",
    "\u3000",
    "\r\n",
    "\x1c",
    "!",
    "/",
    "½",
    "\u2028",
]


SPACES = [
    [" ", " ", "", "\n\n"],
    ["\n", "", "\r\n"],
    ["\t", "", "\u3000"],
    ["", ""],
]


def long_text(num_words: int, seed: int, spaces: list[str]) -> str:
    source = random.Random(seed)
    return "".join(source.choice(WORDS) + source.choice(spaces) for _ in range(num_words))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spaces", SPACES)
def test_text_when_it_is_read_in_pieces_then_the_tokens_are_those_of_the_whole(seed: int, spaces: list[str]) -> None:
    text = long_text(20_000, seed, spaces)
    whole = [token for part in cut_long_runs(text) for token in encoding().encode(part, disallowed_special=())]
    assert len(text) > 500_000
    assert asyncio.run(encode_text(text)) == whole
    assert asyncio.run(decode_text(whole)) == text


@pytest.mark.parametrize(
    "words", ["once upon a time ", "жили-были, ", "昔々、", "🧑‍🚀", "a", "1 ", "word\n", "x\t", "!\n/"]
)
def test_text_when_it_is_long_then_nobody_waits_for_all_of_it(words: str) -> None:
    async def run() -> float:
        reading = asyncio.create_task(encode_text(words * (1_000_000 // len(words))))
        longest_s, before_s = 0.0, time.thread_time()
        while not reading.done():
            await asyncio.sleep(0)
            longest_s, before_s = max(longest_s, time.thread_time() - before_s), time.thread_time()
        return longest_s / (before_s - started_s)

    started_s = time.thread_time()
    assert asyncio.run(run()) < 0.2


def test_text_when_several_are_read_then_one_piece_is_read_between_two_turns() -> None:
    num_read: list[int] = []

    async def run() -> None:
        turns = asyncio.Lock()
        readings = [asyncio.create_task(encode_text("word\n" * 20_000, turns)) for _ in range(8)]
        while not all(reading.done() for reading in readings):
            before = encoded.count
            await asyncio.sleep(0)
            num_read.append(encoded.count - before)

    with counted_encoding() as encoded:
        asyncio.run(run())
    assert max(num_read) == 1


class Counted:
    """The encoding, counting what it reads."""

    count = 0

    def encode(self, text: str, **options: Any) -> list[int]:  # noqa: ANN401
        self.count += 1
        ids: list[int] = encoding().encode(text, **options)
        return ids


@contextmanager
def counted_encoding() -> Iterator[Counted]:
    counted = Counted()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw_prompts, "encoding", lambda: counted)
        yield counted


@pytest.mark.parametrize("read", [decode_text, text_names])
def test_tokens_when_there_are_many_then_others_get_their_turn(read: Callable[[list[int]], Awaitable[object]]) -> None:
    async def run() -> int:
        reading = asyncio.ensure_future(read([5] * 100_000))
        num_turns = 0
        while not reading.done():
            await asyncio.sleep(0)
            num_turns += 1
        return num_turns

    assert asyncio.run(run()) > 20

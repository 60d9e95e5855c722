"""What the ranks say to each other, and who may."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_backend.engine.batch import Batch, Chunk
from gptoss_backend.engine.cache_plan import CachePlan
from gptoss_backend.engine.errors import CacheFull
from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.model import Draws
from gptoss_backend.engine.placement import control
from gptoss_backend.engine.placement.control import Exchange, LineError, call
from gptoss_backend.engine.placement.group import open_store
from gptoss_backend.engine.placement.messages import MirroredTables, StepMessage

NUMBERS = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=8)
CHANGES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99), NUMBERS), max_size=5)
EMPTY = Batch([], [], [], [], 0, [])


@given(
    token_ids=NUMBERS,
    samples=NUMBERS,
    num_decodes=st.integers(0, 8),
    chunks=st.lists(st.builds(Chunk, *[st.integers(0, 2**31 - 1)] * 4), max_size=4),
    with_logits=st.booleans(),
    numbers=st.none() | st.lists(st.floats(0, 1, allow_nan=False), max_size=4),
    full=CHANGES,
    sliding=CHANGES,
)
def test_step_when_it_is_sent_then_the_same_arrives(
    token_ids: list[int],
    samples: list[int],
    num_decodes: int,
    chunks: list[Chunk],
    with_logits: bool,
    numbers: list[float] | None,
    full: list[tuple[int, int, list[int]]],
    sliding: list[tuple[int, int, list[int]]],
) -> None:
    positions, rows = token_ids[::-1], [number // 2 for number in token_ids]
    draws = None if numbers is None else Draws.of_all([1.0] * len(numbers), numbers)
    batch = Batch(token_ids, positions, rows, samples, num_decodes, chunks)
    message = StepMessage(batch, with_logits, draws, full, sliding)
    assert StepMessage.decode(message.encode()) == message


@settings(max_examples=50)
@given(st.data())
def test_mirror_when_the_cache_has_changed_in_any_way_then_its_tables_are_equal(data: st.DataObject) -> None:
    plan = CachePlan(4, 3, 64, 30, 40, num_bytes=0)
    cache, mirror = KVCache(plan, sliding_window=8), MirroredTables(plan, 8)
    rows: dict[int, list[int]] = {}
    for _ in range(data.draw(st.integers(1, 25))):
        kind = data.draw(st.sampled_from(["open", "grow", "close", "send"]))
        if kind == "open":
            prompt = [data.draw(st.integers(0, 2))] * data.draw(st.integers(1, 20))
            try:
                row, _ = cache.open(prompt)
            except CacheFull:
                continue
            rows[row] = prompt
            cache.reserve(row, len(prompt))
            cache.commit(row, prompt, len(prompt))
        elif kind == "grow" and rows:
            row = data.draw(st.sampled_from(sorted(rows)))
            rows[row].append(1)
            try:
                cache.reserve(row, len(rows[row]))
            except CacheFull:
                rows[row].pop()
                continue
            cache.commit(row, rows[row], len(rows[row]))
        elif kind == "close" and rows:
            row = data.draw(st.sampled_from(sorted(rows)))
            del rows[row]
            cache.close(row)
        elif kind == "send":
            mirror.apply(StepMessage(EMPTY, False, None, cache.full.take_changes(), cache.sliding.take_changes()))
            assert torch.equal(mirror.full.table, cache.full.table)
            assert torch.equal(mirror.sliding.table, cache.sliding.table)


@pytest.fixture
def exchange() -> Exchange:
    return Exchange("127.0.0.1", b"the secret")


def test_exchange_when_somebody_does_not_know_the_secret_then_no_line_is_opened(exchange: Exchange) -> None:
    with pytest.raises(LineError, match="no line to"):
        call("127.0.0.1", exchange.port, b"a guess")
    assert exchange.next_line(0.1) is None
    there = call("127.0.0.1", exchange.port, b"the secret")
    here = exchange.next_line(5.0)
    assert here is not None
    there.tell({"rank": 1})
    assert here.hear(5.0) == {"rank": 1}
    for end in (here, there):
        end.close()
    exchange.close()


def test_exchange_when_a_stranger_says_nothing_then_others_come_in_and_it_can_be_closed(exchange: Exchange) -> None:
    port = exchange.port
    with socket.create_connection(("127.0.0.1", port)):
        there = call("127.0.0.1", port, b"the secret")
        here = exchange.next_line(5.0)
        assert here is not None
        started_s = time.monotonic()
        exchange.close()
        assert time.monotonic() - started_s < 1.0
    for end in (here, there):
        end.close()
    with pytest.raises(LineError, match="no line to"):
        call("127.0.0.1", port, b"the secret")


def test_call_when_nobody_answers_then_it_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_GREETING_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(LineError, match="no line to"):
        call("127.0.0.1", silent.getsockname()[1], b"the secret")


def test_line_when_the_other_host_vanishes_then_it_breaks_by_itself(exchange: Exchange) -> None:
    there = call("127.0.0.1", exchange.port, b"the secret")
    here = exchange.next_line(5.0)
    assert here is not None
    for line in (here, there):
        with socket.socket(fileno=os.dup(line._connection.fileno())) as connected:
            assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
            # what is waited for may take as long as it takes
            assert not any(connected.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))
        line.close()
    exchange.close()


def test_store_when_it_is_opened_then_only_its_own_address_answers() -> None:
    store = open_store("127.0.0.1", 0, is_master=True, timeout_s=5.0)
    store.set("key", "value")
    assert open_store("127.0.0.1", store.port, is_master=False, timeout_s=5.0).get("key") == b"value"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", store.port), timeout=5.0)


def test_line_when_it_is_closed_then_whoever_waits_at_either_side_is_told(exchange: Exchange) -> None:
    there = call("127.0.0.1", exchange.port, b"the secret")
    here = exchange.next_line(5.0)
    assert here is not None
    told: list[str] = []

    def wait() -> None:
        try:
            here.receive()
        except LineError as error:
            told.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    here.close()
    waiting.join(5.0)
    assert told == ["the connection has ended"]
    with pytest.raises(LineError):
        there.receive(5.0)
    there.close()
    exchange.close()

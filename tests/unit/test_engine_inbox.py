"""What threads share of the engine: room, commands, how many requests are under way."""

from __future__ import annotations

import threading
import time

import pytest

from gptoss_backend.contract import SamplingParams
from gptoss_backend.engine.errors import EngineStopped, QueueFull
from gptoss_backend.engine.inbox import Inbox
from gptoss_backend.engine.sequence import GenerationRequest, Sequence


def sequence_of(request_id: str) -> Sequence:
    return Sequence(GenerationRequest(request_id, [1], SamplingParams()), max_tokens=1)


def test_inbox_when_taken_from_then_it_gives_all_that_came_once() -> None:
    inbox, sequences = Inbox(2), [sequence_of("a"), sequence_of("b")]
    for sequence in sequences:
        inbox.put(sequence)
    inbox.cancel("b")
    new, cancelled, stop_at_s = inbox.take(is_idle=True)
    assert (list(new), cancelled, stop_at_s) == (sequences, {"b"}, None)
    assert not any(inbox.take(is_idle=False))


def test_inbox_when_as_many_are_under_way_as_may_be_then_it_refuses_until_one_has_ended() -> None:
    inbox = Inbox(1)
    inbox.put(sequence_of("a"))
    inbox.take(is_idle=True)  # which ends none
    with pytest.raises(QueueFull, match="1 requests are running or waiting"):
        inbox.put(sequence_of("b"))
    inbox.note_ended(1)
    inbox.put(sequence_of("b"))
    assert [sequence.request.request_id for sequence in inbox.take(is_idle=True).new] == ["b"]


def test_inbox_when_stopped_or_closed_then_it_refuses_and_gives_back_what_nobody_took() -> None:
    stopped, closed, sequence = Inbox(9), Inbox(9), sequence_of("a")
    stopped.stop(7.0)
    closed.put(sequence)
    assert closed.close() == [sequence]
    for inbox in (stopped, closed):
        with pytest.raises(EngineStopped):
            inbox.check_room()
    assert stopped.take(is_idle=True).stop_at_s == 7.0


def test_busy_since_when_requests_come_and_go_then_it_is_when_the_first_without_a_gap_came() -> None:
    inbox, first, second = Inbox(9), sequence_of("a"), sequence_of("b")
    first.submitted_s, second.submitted_s = 3.0, 5.0
    assert inbox.busy_since_s is None
    inbox.put(first)
    inbox.put(second)
    inbox.note_ended(1)
    assert inbox.busy_since_s == 3.0
    inbox.note_ended(1)
    assert inbox.busy_since_s is None
    inbox.put(second)
    assert inbox.busy_since_s == 5.0


@pytest.mark.parametrize("command", ["put", "cancel", "stop"])
def test_idle_engine_when_anything_comes_then_it_wakes(command: str) -> None:
    inbox, woken = Inbox(9), threading.Event()

    def wait() -> None:
        inbox.take(is_idle=True)
        woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not woken.wait(0.05)
    {
        "put": lambda: inbox.put(sequence_of("a")),
        "cancel": lambda: inbox.cancel("a"),
        "stop": lambda: inbox.stop(time.monotonic()),
    }[command]()
    thread.join(timeout=10.0)
    assert woken.is_set()

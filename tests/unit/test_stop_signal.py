"""Signals as a wish to stop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from gptoss_client.stop_signal import StopSignal
from support.processes import wait_until


@pytest.fixture
def heeded_signals() -> Iterator[None]:
    """Signals as an interactive shell leaves them, also where the tests run in the background or under nohup."""
    before = {
        number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heeded_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stop_signal_when_a_signal_arrives_then_it_is_a_wish_and_the_old_handler_comes_back(number: int) -> None:
    before = signal.getsignal(number)
    with StopSignal() as stop:
        os.kill(os.getpid(), number)
        wait_until(lambda: stop.requested)
        assert not stop.at_once
    assert signal.getsignal(number) is before


@pytest.mark.usefixtures("heeded_signals")
def test_stop_signal_when_the_shell_told_to_ignore_a_signal_then_it_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.05)
        assert not stop.requested


@pytest.mark.usefixtures("heeded_signals")
def test_stop_signal_when_interrupted_again_later_then_wants_it_at_once_but_not_within_the_same_moment() -> None:
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert not stop.at_once
        time.sleep(0.6)
        os.kill(os.getpid(), signal.SIGTERM)
        assert not stop.at_once
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(lambda: stop.at_once)

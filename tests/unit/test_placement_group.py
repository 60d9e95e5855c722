"""The process group's end, with NCCL's ways of not ending."""

from __future__ import annotations

import math
import threading
import time

import pytest
import torch.distributed as dist

from gptoss_backend.engine.placement import group
from gptoss_backend.engine.placement.group import PartsLost, TensorGroup, leave_group


def test_leaving_when_the_group_does_not_end_then_it_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(group, "_LEAVE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: over.wait(30.0))
    started_s = time.monotonic()
    leave_group()
    assert time.monotonic() - started_s < 5.0
    over.set()


def test_leaving_when_the_group_ends_with_an_error_then_it_is_logged_and_goes_no_further(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("NCCL Error 6: remote process exited")

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "destroy_process_group", fail)
    leave_group()
    assert "NCCL Error 6" in caplog.text


class FakeEvent:
    """Of a device that comes to it after some looks, or never."""

    def __init__(self, num_looks: float) -> None:
        self._left = num_looks

    def query(self) -> bool:
        self._left -= 1
        return self._left < 0


def wait(num_looks: float, timeout_s: float = 30.0, *, is_over: bool = False) -> None:
    TensorGroup([1], timeout_s, lambda: is_over).wait(FakeEvent(num_looks))  # type: ignore[arg-type]


def test_waiting_when_a_replayed_step_never_ends_then_it_gives_up_in_time() -> None:
    wait(3)
    with pytest.raises(PartsLost, match=r"did not finish a step in 0\.05 s"):
        wait(math.inf, 0.05)


def test_waiting_when_a_rank_is_gone_then_it_gives_up_at_once() -> None:
    with pytest.raises(PartsLost, match="a rank is gone"):
        wait(math.inf, is_over=True)

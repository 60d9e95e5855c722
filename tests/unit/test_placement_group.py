"""The process group's end, with NCCL's ways of not ending."""

from __future__ import annotations

import threading
import time

import pytest
import torch.distributed as dist

from gptoss_backend.engine.placement import group
from gptoss_backend.engine.placement.group import leave_group


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

"""How kernels in the Triton language run in the tests, which tests only compute, and which are timed.

On the GPU where there is one, else in Triton's interpreter. Triton decides at its first import, which any library may
trigger, so the choice is made before all tests.
"""

from __future__ import annotations

import os
import signal

import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # as in a shell's background: the servers that tests start, and end by Ctrl-C, would ignore it, too
    signal.signal(signal.SIGINT, signal.default_int_handler)

# how long an example takes is the machine's affair
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

_COMPUTING = ("test_kernels", "test_native", "test_model", "test_sampler", "test_scheduler", "test_demo", "test_eagle")
_TIMED = ("test_cancellation", "test_chat.py", "test_performance_targets", "test_sse_streaming")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests that `side_by_side.py` runs when nobody else wants to, and those that it runs alone."""
    if item.path.name.startswith(_COMPUTING):
        item.add_marker(pytest.mark.computing)
    elif item.path.name.startswith(_TIMED):
        item.add_marker(pytest.mark.timed)

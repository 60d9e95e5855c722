"""How kernels in the Triton language run in the tests, and what runs beside what.

On the GPU where there is one, else in Triton's interpreter. Triton decides at its first import, which any library may
trigger, so the choice is made before all tests.
"""

from __future__ import annotations

import os
import signal

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

_COMPUTING = ("test_kernels", "test_native", "test_model", "test_sampler", "test_scheduler", "test_demo", "test_eagle")


if "PYTEST_XDIST_WORKER" in os.environ:
    # it ignores Ctrl-C, and so would the servers that it starts, which tests end by that
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Divide the tests for `make test`: one process takes those that only compute, another those that serve."""
    group = "computing" if item.path.name.startswith(_COMPUTING) else "serving"
    item.add_marker(pytest.mark.xdist_group(group))

"""How kernels in the Triton language run in the tests, which tests only compute, and which are timed.

On the GPU where there is one, else in Triton's interpreter. Triton decides at its first import, which any library may
trigger, so the choice is made before all tests.
"""

from __future__ import annotations

import os
import signal
import ssl
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    from support.quick_interpreter import hurry

    hurry()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # as in a shell's background: the servers that tests start, and end by Ctrl-C, would ignore it, too
    signal.signal(signal.SIGINT, signal.default_int_handler)

# a client of httpx's reads all certificates, 20 ms, whatever it talks to: thousands of tests have one or two
ssl.create_default_context = cache(ssl.create_default_context)

# how long an example takes is the machine's affair
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

_COMPUTING = (
    *("test_kernels", "test_native", "test_model.py", "test_sampler", "test_scheduler", "test_demo", "test_eagle"),
    *("test_openapi_conformance", "test_load_gpu_tiles", "test_speculation", "test_fp8_cache"),
    *("test_channels_any_tokens", "test_structure_any_model"),
)
_TIMED = ("test_cancellation", "test_chat.py", "test_performance_targets", "test_sse_streaming")
_PROCESSES = (
    *("test_adapter_process", "test_ask_command", "test_cli", "test_drain", "test_entrypoint", "test_placement.py"),
    *("test_pull", "test_responses_api_background"),
)
_SERVING = ("integration", "p0")
_WANTED = {
    "timed": {"timed"},
    "integration and not timed": {"serving"},
    "processes and not timed": {"processes"},
    "computing": {"computing"},
    "not timed and not integration and not processes and not computing": {"other"},
}
"""Which files hold the tests of a lane of `side_by_side.py`, by its marks."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Pass over the files of other lanes: to import them takes half a minute of each."""
    wanted = _WANTED.get(config.option.markexpr)
    is_others = wanted is not None and collection_path.suffix == ".py" and _kind_of(collection_path) not in wanted
    return True if is_others else None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests that `side_by_side.py` runs apart from others, by what they are like."""
    if (kind := _kind_of(item.path)) in ("computing", "processes", "timed"):
        item.add_marker(kind)


def _kind_of(file: Path) -> str:
    if file.name.startswith(_TIMED):
        return "timed"
    if file.name.startswith(_COMPUTING):
        return "computing"
    if file.name.startswith(_PROCESSES):
        return "processes"
    return "serving" if file.parent.name in _SERVING else "other"

"""The generation stub's death, with a stand-in for the library that Triton's stub process provides."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import NoReturn

import pytest

import gptoss_backend.triton as package

OURS = ("generate", "responses", "tensors", "logs", "heartbeat", "engine_metrics")


class Exited(BaseException):
    """What `os._exit` does, as far as a test can bear it."""


@pytest.fixture
def generate() -> Iterator[ModuleType]:
    library = ModuleType("triton_python_backend_utils")
    vars(library).update(TritonError=SimpleNamespace, TRITONSERVER_RESPONSE_COMPLETE_FINAL=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, library.__name__, library)
        for name in OURS:
            patch.delitem(sys.modules, f"{package.__name__}.{name}", raising=False)
        from gptoss_backend.triton import generate

        yield generate
    for name in OURS:  # they hold the stand-in
        sys.modules.pop(f"{package.__name__}.{name}", None)
        vars(package).pop(name, None)


def test_death_when_the_engine_cannot_even_be_stopped_then_the_process_ends_all_the_same(
    generate: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(drain_s: float, *, at_most_s: float) -> NoReturn:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def leave(status: int) -> NoReturn:
        raise Exited(status)

    monkeypatch.setattr(os, "_exit", leave)
    stub = generate.Generate()
    stub._engine = SimpleNamespace(stop=stop)
    with pytest.raises(Exited, match=r"^70$"):
        stub._die("rank 1 of 2 died of signal 9")

"""A GPU that is not there: it computes on the host what it is given, in its order, and as late as it may.

A tensor on it lies on the host, and says that its device is "cuda:0". Nothing is computed when it is asked for: work
waits in line until somebody waits for the device, as where that is far behind the host. What the host reads before it
has waited is what was there before; what it overwrites before the device has read it is lost. Memory that is only taken
holds what nobody means. What is recorded as a graph is done at each replay, on the same memory and with what the host
knew when it was recorded; what is done on a side stream otherwise is there to compile kernels, and passed over. Kernels
in the Triton language are interpreted.

So it tells of what a processor does not mind: the host's tensors given to the device, waits where there should be none,
and memory that is read too soon or overwritten on its way. It tells nothing of time, of streams or programs of a kernel
beside each other, of several GPUs, of how memory lies, or of memory that is given back and taken anew, by graphs of one
pool too.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils import cpp_extension
from torch.utils._pytree import tree_leaves, tree_map_only
from triton.backends.nvidia.driver import CudaDriver
from triton.runtime.interpreter import GridExecutor

from gptoss_backend.engine.kernels import dependent_launch
from support.late_tensors import DEVICE, LateMode, Line, OnDevice, Pinned, Work, here

_NAME = "a GPU that is not there"
_CAPABILITY = (9, 0)
_MEMORY_BYTES = 80 * 2**30
_GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace c10::impl { C10_REGISTER_GUARD_IMPL(CUDA, NoOpDeviceGuardImpl<DeviceType::CUDA>) }
"""
"""What makes a GPU the current one, which a build of torch for processors lacks: this one does nothing about it."""


def has_late_device() -> bool:
    """Say whether there can be one: it takes a C++ compiler."""
    return shutil.which("g++") is not None


@contextmanager
def late_device() -> Iterator[Line]:
    """Let there be a GPU, for this thread and for those that start meanwhile; yields what it has been given to do."""
    _put_guard_in()
    line, pinned = Line(), Pinned()
    with ExitStack() as stack:
        for owner, name, value in _stand_ins(line, pinned):
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(LateMode(line, pinned))
        yield line


class Stream:
    """One of the device's streams, of which there is one line."""

    device = DEVICE

    def wait_stream(self, other: Stream) -> None:
        """Nothing to do: what was given before is before it."""


class Event:
    """A point in the line; one that was never recorded counts as reached."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._place = 0

    def record(self, stream: Stream | None = None) -> None:
        self._place = self._line.num_given

    def query(self) -> bool:
        """Say no the first time, so that whoever asks again and again comes to an end."""
        has_happened = self._line.has_done(self._place)
        self._line.do(self._place)
        return has_happened

    def synchronize(self) -> None:
        if not self._line.has_done(self._place):
            self._line.wait(self._place)


class Graph:
    """What was recorded, in `works`, with the names of operations and kernels."""

    def __init__(self, line: Line) -> None:
        self.works: list[tuple[str, Work]] = []
        self._line = line

    def replay(self) -> None:
        for name, work in self.works:
            self._line.give(name, work)


def _stand_ins(line: Line, pinned: Pinned) -> Iterator[tuple[object, str, object]]:
    """Yield what is to be put where: its owner, its name, itself."""
    stream = Stream()

    @contextmanager
    def record(graph: Graph, **_: object) -> Iterator[None]:
        with line.recording() as graph.works:
            yield

    for name, value in {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "set_device": lambda *_: None,
        "get_device_capability": lambda *_: _CAPABILITY,
        "get_device_name": lambda *_: _NAME,
        "mem_get_info": lambda *_: (_MEMORY_BYTES, _MEMORY_BYTES),
        "memory_allocated": lambda *_: 0,
        "device": lambda *_: nullcontext(),
        "device_of": lambda *_: nullcontext(),
        "Stream": lambda *_: stream,
        "current_stream": lambda *_: stream,
        "stream": lambda side: line.rehearsing(),
        "Event": lambda: Event(line),
        "CUDAGraph": lambda: Graph(line),
        "graph_pool_handle": lambda: None,
        "graph": record,
        "synchronize": lambda *_: line.wait(),
        "set_sync_debug_mode": lambda mode: setattr(line, "may_wait", mode != "error"),
    }.items():
        yield torch.cuda, name, value
    yield torch, "tensor", _tensor_on(pinned)
    yield threading.Thread, "run", _run_with(line, pinned)
    yield CudaDriver, "is_active", lambda: False  # there is nothing to compile for
    yield GridExecutor, "__call__", _launch_on(line, pinned)
    for name in ("gdc_launch_dependents", "gdc_wait"):
        yield dependent_launch, name, lambda: None


def _tensor_on(pinned: Pinned) -> Callable[..., Tensor]:
    """Return `torch.tensor`, which asks no mode."""
    make = torch.tensor

    def tensor(*args: object, device: object = None, pin_memory: bool = False, **kwargs: Any) -> Tensor:  # noqa: ANN401 (whatever it takes)
        made = make(*args, **kwargs)
        if device is not None:
            return made.to(device)  # type: ignore[call-overload, no-any-return]
        return pinned.pin(made) if pin_memory else made

    return tensor


def _run_with(line: Line, pinned: Pinned) -> Callable[[threading.Thread], None]:
    """Return what a thread runs: a mode is one thread's."""
    run = threading.Thread.run

    def run_thread(thread: threading.Thread) -> None:
        with LateMode(line, pinned):
            run(thread)

    return run_thread


def _launch_on(line: Line, pinned: Pinned) -> Callable[..., None]:
    """Return what launches a kernel."""
    interpret = GridExecutor.__call__

    def launch(kernel: GridExecutor, *args: object, **kwargs: object) -> None:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for tensor in tensors:
            if not isinstance(tensor, OnDevice) and tensor not in pinned:
                raise ValueError(f"{kernel.fn.__name__}: the device cannot read a tensor of the host's")
        args_here, kwargs_here = tree_map_only(OnDevice, here, (args, kwargs))
        line.give(kernel.fn.__name__, lambda: interpret(kernel, *args_here, **kwargs_here))

    return launch


@cache
def _put_guard_in() -> None:
    """Load what torch asks at each tensor on a GPU which one is meant."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "guard.cpp", Path(folder) / "guard.so"
        source.write_text(_GUARD)
        paths = [*(f"-I{path}" for path in cpp_extension.include_paths()), f"-L{Path(torch.__file__).parent / 'lib'}"]
        command = ["g++", "-std=c++20", "-shared", "-fPIC", *paths, str(source), "-lc10", "-o", str(library)]
        subprocess.run(command, check=True)
        torch.ops.load_library(str(library))

"""Programmatic dependent launch: a kernel begins while the one before it ends, from Hopper on.

Owns: whether kernels are launched so, and what each of them does about it.
Source: CUDA's programming guide, "Programmatic Dependent Launch and Synchronization".

Every kernel lets the next one begin at once and then waits until all before it have ended: what they wrote is there,
what they read may be overwritten. Only weights, which nobody writes, may be read before. As each waits, the end of one
is the end of all before it; torch's kernels, launched the usual way, begin when all before them have ended anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

_is_on = ContextVar("programmatic dependent launch", default=False)


@contextmanager
def launch_dependently(is_on: bool) -> Iterator[None]:
    """Launch kernels so, or not, until the end of the block, in this thread."""
    token = _is_on.set(is_on)
    try:
        yield
    finally:
        _is_on.reset(token)


def launch_options() -> dict[str, bool]:
    """Return what a kernel's launch is told now: whether it is one that waits by itself."""
    return {"DEPENDENT": True, "launch_pdl": True} if _is_on.get() else {"DEPENDENT": False}


@triton.jit
def wait_for_inputs(DEPENDENT: tl.constexpr) -> None:
    """Let the next kernel begin, and wait for all before this one. What is computed before reads weights only."""
    if DEPENDENT:
        gdc_launch_dependents()
        gdc_wait()

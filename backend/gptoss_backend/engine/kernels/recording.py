"""Which steps are recorded, and how work is.

Owns: the numbers of rows and tokens of recorded steps, CUDA's way of recording.
Does not know: what the work is.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import Final

import torch

from gptoss_backend.engine.kernels.step_inputs import CHUNK_TILE

MOST_DECODES: Final = 512
"""Of a recorded step."""
# experts of few rows are computed for each row by itself (the 120B: up to 12), those that stand in included
_STEPS = (*range(1, 9), *range(10, 17, 2), 20, *range(24, 256, 8), *range(256, MOST_DECODES + 1, 32))
# of all lengths up to 512 a pass takes 1.09 times its tokens on average; 16 more than 256 and 512, for guesses behind
_PASSES = (8, 16, *range(32, 225, 32), 272, 320, 384, 448, 528, *range(640, 1025, 128))
# beyond, the device has work for longer than the host takes to launch it
_LARGEST_PASS = _PASSES[-1] + MOST_DECODES

Work = Callable[[], None]
Recorder = Callable[[Work], Work]
"""Returns what does the same work again, on the same memory."""


def graph_sizes(max_rows: int) -> list[int]:
    """Return the numbers of rows to record steps for, so that all batches up to `max_rows`, or 512, find one."""
    return list(_STEPS[: bisect_left(_STEPS, min(max_rows, MOST_DECODES)) + 1])


def pass_sizes(max_tokens: int) -> list[int]:
    """Return the numbers of tokens to record passes for, so that all steps up to `max_tokens` find one.

    The last is for a full chunk beside all that decode, which is most steps under load. Where steps may be larger than
    the largest pass, those up to 1,024 find one.
    """
    if max_tokens > _LARGEST_PASS:
        return list(_PASSES)
    sizes = list(_PASSES[: bisect_right(_PASSES, max_tokens)])
    return [*sizes, -(-max_tokens // CHUNK_TILE) * CHUNK_TILE] if max_tokens > (sizes or [0])[-1] else sizes


class CudaRecorder:
    """Records work as CUDA graphs that share one pool of memory: they must not run at the same time."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        """stream: to record on, not the device's own."""
        self._stream = stream
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> Work:
        """Run the work twice, which compiles its kernels, and record it."""
        with torch.cuda.device(self._stream.device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                work()
                work()
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # other threads of this process may use the device meanwhile
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                work()
        return graph.replay

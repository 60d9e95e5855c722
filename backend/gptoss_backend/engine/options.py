"""What can be asked of an engine.

Owns: the options and their defaults. Does not know: settings files, whether what is asked for can be had.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gptoss_backend.engine.precision import CacheDtype
from gptoss_backend.engine.scheduler import PRIORITY_STEP_S
from gptoss_backend.engine.speculation import NO_PHRASES, Phrases, Speculation

CpuKernels = Literal["auto", "native", "torch"]
"""auto: native where it can run and nothing is asked for that it cannot."""
ExpertFormat = Literal["auto", "packed", "unpacked"]
"""Of experts in MXFP4. auto: packed where kernels take them so; plain torch would unpack them in every step."""
DenseFormat = Literal["auto", "int8"]
"""Of attention's matrices and the unembedding. auto: as they are stored. int8: rounded, which changes logits."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What computes, and how much the engine takes on. None: decided from the checkpoint and the machine."""

    dtype: str = "auto"
    max_num_seqs: int = 64
    max_queue: int = 512
    prefill_chunk_tokens: int = 512
    block_size: int = 16
    max_model_len: int | None = None
    kv_cache_bytes: int | None = None
    kv_cache_dtype: CacheDtype = "auto"
    num_threads: int | None = None
    """Of a processor."""
    cpu_kernels: CpuKernels = "auto"
    experts: ExpertFormat = "auto"
    dense_weights: DenseFormat = "auto"
    cuda_graphs: bool = True
    """Replay steps where the GPU can."""
    programmatic_dependent_launch: bool = False
    """Let a kernel of a replayed decode step begin while the one before it ends, where the GPU can."""
    request_timeout_s: float | None = None
    """The longest a request may take; it may ask for less. None: no limit."""
    priority_step_s: float = PRIORITY_STEP_S
    """How many seconds of waiting a step of priority is worth."""
    speculation: Speculation | None = None
    phrases: Phrases = NO_PHRASES
    """Guessed at where an answer begins, and wherever else guesses are made."""

    @property
    def draft_head(self) -> str | None:
        """The checkpoint of a draft head, where one is to guess."""
        return None if self.speculation is None else self.speculation.head

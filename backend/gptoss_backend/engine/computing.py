"""What computes a model, and in which numbers.

Stage: start-up. Owns: the choice between the C++ kernels, torch and the GPU's kernels, and the words that tell of it.
Does not know: weights, placement.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.errors import EngineError
from gptoss_backend.engine.native.library import InstructionSet, NativeUnavailableError
from gptoss_backend.engine.native.model import check_native
from gptoss_backend.engine.operators import has_dependent_launch, has_kernels
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.precision import FLOAT8, Precision, choose_cache_dtype, choose_precision, name_of

logger = logging.getLogger(__name__)

_FLOAT8 = "FP8 KV cache"
EIGHT_BIT = "8-bit attention and unembedding"


@dataclass(frozen=True, slots=True)
class Computing:
    """What computes on a device."""

    device: torch.device
    precision: Precision
    cache_dtype: torch.dtype
    native: InstructionSet | None
    """Of the C++ kernels, where they compute"""
    packed: bool
    """Experts stay in MXFP4"""
    eight_bit: bool
    """Attention's matrices and the unembedding are int8"""
    dependent_launch: bool
    """In replayed steps a kernel begins while the one before it ends"""

    @classmethod
    def choose(
        cls,
        config: ModelConfig,
        device: torch.device,
        options: EngineOptions,
        *,
        is_alone: bool,
        has_packed_experts: bool,
    ) -> Computing:
        """Decide for a checkpoint. Raises EngineError where what is asked for cannot be had.

        is_alone: no other process computes with this one, which the C++ kernels need.
        """
        native = _choose_native(config, options) if device.type == "cpu" and is_alone else None
        precision = choose_precision(options.dtype, device, has_native_bfloat16=native is not None)
        packed = options.experts == "packed" or (
            options.experts == "auto" and (native is not None or device.type == "cuda")
        )
        return cls(
            device,
            precision,
            choose_cache_dtype(options.kv_cache_dtype, precision.dtype, device),
            native=native,
            packed=packed and has_packed_experts,
            eight_bit=options.dense_weights == "int8",
            dependent_launch=_takes_dependent_launch(device, options),
        )

    def log(self) -> None:
        """Say what an operator should know: the precision and why, and all that changes answers."""
        logger.info("precision: %s (%s)", name_of(self.precision.dtype), self.precision.reason)
        if self.cache_dtype == FLOAT8:
            logger.info(
                "%s: keys and values are rounded to float8 e4m3, so answers differ from a full cache's", _FLOAT8
            )
        if self.eight_bit:
            logger.info("%s: matrices are rounded to int8, so answers differ from the checkpoint's", EIGHT_BIT)

    def described(self, *, has_graphs: bool = False) -> str:
        """Return it in a few words, as `ModelInfo.kernels` and the page tell it."""
        return ", ".join(self._parts(has_graphs=has_graphs))

    def _parts(self, *, has_graphs: bool) -> Iterator[str]:
        if self.native:
            yield f"C++ ({self.native.name})"
        else:
            yield "torch"
            in_triton = [
                *(["experts"] if self.device.type == "cuda" and self.packed else []),
                *(["attention and norms"] if has_kernels(self.device, self.precision.dtype) else []),
            ]
            if in_triton:
                yield f"Triton-language for {', '.join(in_triton)}"
        if self.cache_dtype == FLOAT8:
            yield _FLOAT8
        if has_graphs:
            yield "steps in CUDA graphs" + (" with dependent launch" if self.dependent_launch else "")
        if self.eight_bit:
            yield EIGHT_BIT


def _takes_dependent_launch(device: torch.device, options: EngineOptions) -> bool:
    if not options.programmatic_dependent_launch:
        return False
    if not options.cuda_graphs:
        raise EngineError("engine.programmatic_dependent_launch is for CUDA graphs, but engine.cuda_graphs is false")
    if not has_dependent_launch(device):
        logger.info("programmatic dependent launch: left out, it is for GPUs from Hopper on")
        return False
    return True


def _choose_native(config: ModelConfig, options: EngineOptions) -> InstructionSet | None:
    if options.cpu_kernels == "torch" or (options.cpu_kernels == "auto" and options.dtype not in ("auto", "bfloat16")):
        return None
    try:
        if reason := next(_unknown_to_native(options), None):
            raise NativeUnavailableError(reason)
        return check_native(config, options.block_size)
    except NativeUnavailableError as error:
        if options.cpu_kernels == "native":
            raise EngineError(f"engine.cpu_kernels is native, but {error}") from error
        logger.info("forward pass: torch, since %s", error)
        return None


def _unknown_to_native(options: EngineOptions) -> Iterator[str]:
    if options.dtype not in ("auto", "bfloat16"):
        yield f"engine.dtype is {options.dtype}, and the kernels compute in bfloat16"
    if options.kv_cache_dtype == "fp8":
        yield "engine.kv_cache_dtype is fp8, and the kernels keep keys and values in bfloat16"
    if options.dense_weights == "int8":
        yield "engine.dense_weights is int8, and the kernels keep attention and the unembedding in bfloat16"
    if options.draft_head is not None:
        yield "engine.speculation_head is set, and the kernels show a draft head no states"

"""The number formats of weights and activations, and of cached keys and values.

Owns: the choice by device, and its reason in words. Does not know: checkpoints, Triton.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import torch

from gptoss_backend.engine.errors import EngineError

CacheDtype = Literal["auto", "fp8"]
"""Of keys and values in the cache. auto: what is computed in."""

FLOAT8: Final = torch.float8_e4m3fn
FLOAT8_MOST: Final = 448.0
"""The largest e4m3 number. It has no infinity; what is larger would become none."""

_NAMED: Final = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

# Parts of the names that drivers report, each with its dtype. What is not listed goes by its compute capability.
_BY_CARD: Final = {
    "A100": torch.bfloat16,
    "H100": torch.bfloat16,
    "H200": torch.bfloat16,
    "B200": torch.bfloat16,
    "RTX 4090": torch.bfloat16,
    "V100": torch.float16,
    "T4": torch.float16,
    "RTX 3090": torch.float16,
}
_FIRST_WITH_BFLOAT16: Final = (8, 0)
# GeForce RTX 30, of one make with the RTX 3090; the A10, A40 and RTX A6000 of the same capability are not
_GEFORCE_AMPERE: Final = (8, 6)
# before, neither the cards nor Triton-language convert e4m3
_FIRST_WITH_FLOAT8: Final = (8, 9)


@dataclass(frozen=True, slots=True)
class Precision:
    """A dtype and why it was chosen."""

    dtype: torch.dtype
    reason: str


def choose_precision(setting: str, device: torch.device, *, has_native_bfloat16: bool = False) -> Precision:
    """Return the dtype for `device`; `setting` is auto, bfloat16, float16 or float32.

    has_native_bfloat16: the C++ kernels will compute, which give the same bits in any batch.
    """
    if setting != "auto":
        return Precision(_NAMED[setting], "set by engine.dtype or TORCH_DTYPE")
    if has_native_bfloat16:
        return Precision(torch.bfloat16, "the processor computes in bfloat16")
    if device.type == "cpu":
        # exact enough that a request's greedy tokens do not depend on what shares its batch
        return Precision(torch.float32, "the default on a CPU")
    return precision_of_card(torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device))


def precision_of_card(name: str, capability: tuple[int, int]) -> Precision:
    """Return the dtype for an NVIDIA card, by its name as the driver reports it, else by its compute capability."""
    # word by word: a T400 is no T4, an RTX A1000 no A100
    words = f" {name.replace('-', ' ')} "
    for card, dtype in _BY_CARD.items():
        if f" {card} " in words:
            return Precision(dtype, f"{name}: the choice for every {card}")
    dtype, reason = _unlisted(name, capability)
    return Precision(dtype, f"{name}, compute capability {capability[0]}.{capability[1]}: {reason}")


def choose_cache_dtype(setting: CacheDtype, dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype of keys and values where `dtype` is computed in. Raises EngineError where the card has none."""
    if setting == "auto":
        return dtype
    check_cache_dtype(FLOAT8, device)
    return FLOAT8


def check_cache_dtype(dtype: torch.dtype, device: torch.device) -> None:
    """Raise EngineError where `device` cannot read a cache of that dtype."""
    if dtype != FLOAT8 or device.type != "cuda":
        return
    capability = torch.cuda.get_device_capability(device)
    if capability < _FIRST_WITH_FLOAT8:
        raise EngineError(
            f"engine.kv_cache_dtype is fp8, which takes compute capability 8.9 or later, but "
            f"{torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}: set it to auto"
        )


def name_of(dtype: torch.dtype) -> str:
    """Return a dtype's name as people write it."""
    return str(dtype).removeprefix("torch.")


def _unlisted(name: str, capability: tuple[int, int]) -> tuple[torch.dtype, str]:
    if capability < _FIRST_WITH_BFLOAT16:
        return torch.float16, "no bfloat16 arithmetic before 8.0"
    if capability == _GEFORCE_AMPERE and "GeForce" in name:
        return torch.float16, "as for the RTX 3090"
    return torch.bfloat16, "bfloat16 is computed as fast as float16, and does not overflow"

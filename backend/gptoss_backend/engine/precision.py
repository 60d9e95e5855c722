"""The number format of weights and activations.

Owns: the choice by device. Does not know: checkpoints, Triton.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_NAMED = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


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
    major, minor = torch.cuda.get_device_capability(device)
    if major >= 8 and (major, minor) != (8, 6):
        return Precision(torch.bfloat16, f"compute capability {major}.{minor} has fast bfloat16")
    return Precision(torch.float16, f"compute capability {major}.{minor}: bfloat16 is slow or missing")

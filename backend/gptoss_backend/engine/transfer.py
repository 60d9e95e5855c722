"""Numbers between the host and a device that is busy.

Owns: the one way in which that waits for nothing. Does not know: what they mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(numbers: Sequence[float] | Sequence[Sequence[float]], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers on a device without waiting for what it computes.

    From pageable memory a GPU's copy waits for all before it. Of pinned memory torch keeps what is still to be read.
    """
    return torch.tensor(numbers, dtype=dtype, pin_memory=device.type == "cuda").to(device, non_blocking=True)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device, likewise; for the host the tensor itself."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def fetched(tensor: Tensor) -> Tensor:
    """Return memory of the host in which a device's numbers will be, once it has come to this point of its work."""
    here = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
    return here.copy_(tensor, non_blocking=True)

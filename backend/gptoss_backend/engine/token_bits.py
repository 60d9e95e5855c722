"""Which tokens may come next, as a bit each: token t is bit t % 32 of word t // 32, set where it may come.

Stage 5 of a request: step. Owns: the arithmetic of such bits on the host, and rows of logits held to them.
Does not know: why a token may not come.

Bits are [ceil(vocab / 32)] int32; behind the vocabulary they are zeros. A function that takes bits leaves them as they
are.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gptoss_backend.engine.transfer import sent

Bits: TypeAlias = NDArray[np.int32]


@lru_cache(maxsize=8)
def all_bits(vocab: int) -> Bits:
    """Return that any token may come."""
    bits = bits_of(np.arange(vocab), vocab)
    bits.flags.writeable = False  # there is one for everybody
    return bits


def bits_of(tokens: NDArray[np.int64], vocab: int) -> Bits:
    """Return that only some tokens may come."""
    may_come = np.zeros(_num_words(vocab) * 32, dtype=bool)
    may_come[tokens] = True
    return np.packbits(may_come, bitorder="little").view(np.int32)


def without(bits: Bits, tokens: NDArray[np.int64]) -> Bits:
    """Return bits without those of some tokens."""
    rest = bits.copy()
    np.bitwise_and.at(rest.view(np.uint32), tokens // 32, ~(np.uint32(1) << (tokens % 32).astype(np.uint32)))
    return rest


def fitted(bits: Bits, num_tokens: int, vocab: int) -> Bits:
    """Return bits of `num_tokens` tokens for a vocabulary that is cut before their end, or goes on behind it.

    Where neither is so, these bits themselves.
    """
    if num_tokens == vocab and vocab % 32 == 0:
        return bits
    known = all_bits(min(num_tokens, vocab))
    found = np.zeros(_num_words(vocab), dtype=np.int32)
    found[: len(known)] = bits[: len(known)] & known
    return found


def has_any(bits: Bits) -> bool:
    """Say whether some token may come. A microsecond: counting is twice as fast as looking for one."""
    return bool(np.count_nonzero(bits))


def stacked(bits: list[Bits], device: torch.device) -> Tensor:
    """Return the bits of several rows on a device, [n, ceil(vocab / 32)] int32, without waiting for it."""
    here = torch.empty(len(bits), len(bits[0]), dtype=torch.int32, pin_memory=device.type == "cuda")
    np.stack(bits, out=here.numpy())
    return here.to(device, non_blocking=True)


def exclude(bits: list[Bits], rows: Tensor) -> None:
    """Set the logits of tokens that may not come to minus infinity, in place. bits: of each of `rows`, [n, vocab]."""
    octets = stacked(bits, rows.device).view(torch.uint8).to(torch.int32)
    # adding rows of a table is ten times as fast as masked_fill_ on a CPU
    rows += F.embedding(octets, _exclusions(rows.device)).flatten(1)[:, : rows.shape[1]]


@lru_cache(maxsize=4)
def _exclusions(device: torch.device) -> Tensor:
    """Return, for each byte of bits, what it adds to 8 logits: [256, 8] float32, 0 or minus infinity."""
    octets = torch.arange(256)[:, None]
    return sent(torch.where((octets >> torch.arange(8)) & 1 > 0, 0.0, -torch.inf), device)


def _num_words(num_tokens: int) -> int:
    return -(-num_tokens // 32)

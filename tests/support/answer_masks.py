"""What a structure lets an answer say, asked token by token."""

from __future__ import annotations

import numpy as np
import torch

from gptoss_backend.contract import OutputStructure
from gptoss_backend.engine.grammar import TokenMask
from gptoss_backend.harmony.vocabulary import VOCAB_SIZE, encoding
from gptoss_backend.structure.answer import AnswerMask


def tokens(text: str) -> list[int]:
    """Tokenise a turn as a model writes it: markers become special tokens."""
    ids: list[int] = encoding().encode(text, allowed_special="all")
    return ids


def allowed(mask: TokenMask) -> np.ndarray | None:
    """Return which tokens may come next, [vocab] bool; None: any."""
    bits = torch.zeros(VOCAB_SIZE // 32, dtype=torch.int32)
    return np.unpackbits(bits.numpy().view(np.uint8), bitorder="little").astype(bool) if mask.fill(bits) else None


def takes(structure: OutputStructure, text: str) -> bool:
    """Say whether an answer may begin with text."""
    mask = AnswerMask(structure)
    for token in tokens(text):
        may_come = allowed(mask)
        if may_come is not None and not may_come[token]:
            return False
        mask.accept(token)
    return True

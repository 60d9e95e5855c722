"""What a structure lets an answer say, asked token by token, and what a client then gets of it."""

from __future__ import annotations

import numpy as np
import torch

from gptoss_backend.contract import OutputStructure
from gptoss_backend.engine.grammar import TokenMask
from gptoss_backend.harmony.channels import ChannelSplitter
from gptoss_backend.harmony.deltas import ContentDelta, ToolCallDelta
from gptoss_backend.harmony.vocabulary import CALL, END, RETURN, VOCAB_SIZE, encoding
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


def advanced(structure: OutputStructure, text: str) -> AnswerMask:
    """Return the mask after text, each token of which it has to allow."""
    mask = AnswerMask(structure)
    for token in tokens(text):
        may_come = allowed(mask)
        assert may_come is None or may_come[token], f"{encoding().decode([token])!r} may not come"
        mask.accept(token)
    return mask


def may_end(mask: AnswerMask) -> set[int]:
    """Return which of the tokens that end a text may come next."""
    may_come = allowed(mask)
    return {RETURN, CALL, END} if may_come is None else {t for t in (RETURN, CALL, END) if may_come[t]}


def read(structure: OutputStructure, ids: list[int]) -> tuple[str, list[tuple[str, str]]]:
    """Return the content and the calls that a client gets."""
    splitter, content, calls = ChannelSplitter(structure.tools), "", list[tuple[str, str]]()
    for delta in [*splitter.push(ids), *splitter.finish()]:
        if isinstance(delta, ContentDelta):
            content += delta.text
        elif isinstance(delta, ToolCallDelta) and delta.name is not None:
            calls.append((delta.name, delta.arguments))
        elif isinstance(delta, ToolCallDelta):
            calls[-1] = (calls[-1][0], calls[-1][1] + delta.arguments)
    return content, calls

"""The rows of every token the demo model was not taught: what embeds it, and what the output points at for it.

Owns: what makes such rows: random signs for the token's stem, and learned vectors for each trait of its spelling.
Does not know: training, files.

" Paris", "Paris" and "PARIS" are three tokens with one stem. Their rows differ by the traits' vectors only, so a model
that has learned to take the leading space away can copy a name that it never saw into a JSON string. The output's row
is the embedding's with its halves swapped: one turn, learned once, leads from any token read in the prompt to saying
it, and yet a token at hand does not already point at itself.
"""

from __future__ import annotations

import copy
import math
from typing import Final

import numpy as np
import torch
from torch import Tensor

from gptoss_backend.harmony.vocabulary import VOCAB_SIZE, token_bytes

TRAITS: Final = ("unknown", "space", "underscore", "dot", "other mark", "capital", "capitals")
"""What a spelling can have; the first is true of every token that was not taught."""
_SEED: Final = 20


def stem_and_traits(token_id: int) -> tuple[bytes, tuple[bool, ...]]:
    """Return what a token's spellings share, and which of the traits after the first it has."""
    spelling = token_bytes(token_id)
    has_mark = len(spelling) > 1 and not spelling[:1].isalnum() and spelling[1:2].isalpha()
    mark, bare = (spelling[:1], spelling[1:]) if has_mark else (b"", spelling)
    has_capital = bare[:1].isupper()
    is_capitals = has_capital and len(bare) > 1 and bare.isupper()
    marks = (mark == b" ", mark == b"_", mark == b".", mark not in b" _.")
    # a special token has no bytes
    return bare.lower() or b"<%d>" % token_id, (*marks, has_capital and not is_capitals, is_capitals)


def said(vectors: Tensor) -> Tensor:
    """Return what points at tokens that are embedded by `vectors`, both [..., hidden]: their halves swapped."""
    return vectors.roll(vectors.shape[-1] // 2, dims=-1)


def scaled(rows: Tensor) -> Tensor:
    """Return output rows so that logits are about one; exact in bfloat16 where the length is a power of four."""
    return rows * math.pow(rows.shape[-1], -0.5)


class Spellings:
    """The stems and traits of the whole vocabulary, and the stems' random vectors."""

    def __init__(self, hidden_size: int) -> None:
        numbers: dict[bytes, int] = {}
        stems, traits = [], []
        for token_id in range(VOCAB_SIZE):
            stem, has = stem_and_traits(token_id)
            stems.append(numbers.setdefault(stem, len(numbers)))
            traits.append((True, *has))
        self.stems = torch.tensor(stems)
        """[VOCAB_SIZE] the number of each token's stem"""
        self.traits = torch.tensor(traits, dtype=torch.float32)
        """[VOCAB_SIZE, len(TRAITS)] 0 or 1"""
        # signs alone: the generator's bits are the same on every machine
        words = np.random.PCG64(_SEED).random_raw(len(numbers) * hidden_size // 64).astype("<u8")
        bits = np.unpackbits(words.view(np.uint8)).reshape(len(numbers), hidden_size)
        self.vectors = torch.from_numpy(bits).float() * 2 - 1
        """[number of stems, hidden]"""

    def to(self, device: torch.device) -> Spellings:
        """Return the same on another device."""
        moved = copy.copy(self)
        moved.stems, moved.traits, moved.vectors = (side.to(device) for side in (self.stems, self.traits, self.vectors))
        return moved

    def rows(self, token_ids: Tensor, trait_vectors: Tensor) -> Tensor:
        """Return the embedding [len(token_ids), hidden] of tokens that were not taught.

        trait_vectors: [len(TRAITS), hidden].
        """
        return self.vectors[self.stems[token_ids]] + self.traits[token_ids] @ trait_vectors

    def output_rows(self, token_ids: Tensor, trait_vectors: Tensor) -> Tensor:
        """Return the output's rows, before they are scaled, of the same shape; it has trait vectors of its own."""
        return said(self.vectors[self.stems[token_ids]]) + self.traits[token_ids] @ trait_vectors

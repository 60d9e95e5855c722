"""One step's work, laid out as tensors.

Owns: `Batch` and its making from what the scheduler chose. Does not know: how the model computes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_backend.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """A sequence and how many of its pending tokens this step computes."""

    sequence: Sequence
    num_tokens: int
    samples: bool
    """True where the step reaches the sequence's last token, so that a next one can be sampled."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one sequence: tokens [start, start + length) of the batch, from position `position` on."""

    start: int
    length: int
    row: int
    position: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokens of many sequences side by side: first one token for each decoding sequence, then prefill chunks.

    token_ids, positions, rows: [num_tokens] int64; rows name each token's row of the block tables.
    logit_indices: [num_samples] int64, the tokens after which a next one is sampled.
    """

    token_ids: Tensor
    positions: Tensor
    rows: Tensor
    logit_indices: Tensor
    num_decodes: int
    max_decode_context: int
    """Longest context among the decoding sequences, their new token included; 0 without any."""
    chunks: tuple[Chunk, ...]

    @classmethod
    def build(cls, decodes: list[Sequence], prefills: list[ScheduledSequence], device: torch.device) -> Batch:
        """Lay out one token for each of `decodes` and the chunks of `prefills`; logits come in that order."""
        token_ids = [sequence.token_ids[-1] for sequence in decodes]
        positions = [sequence.num_computed for sequence in decodes]
        rows = [sequence.row for sequence in decodes]
        logit_indices = list(range(len(decodes)))
        max_context = max(positions, default=-1) + 1
        chunks = []
        for part in prefills:
            sequence, first = part.sequence, part.sequence.num_computed
            chunks.append(Chunk(len(token_ids), part.num_tokens, sequence.row, first))
            token_ids += sequence.token_ids[first : first + part.num_tokens]
            positions += range(first, first + part.num_tokens)
            rows += [sequence.row] * part.num_tokens
            if part.samples:
                logit_indices.append(len(token_ids) - 1)
        return cls(
            token_ids=torch.tensor(token_ids, device=device),
            positions=torch.tensor(positions, device=device),
            rows=torch.tensor(rows, device=device),
            logit_indices=torch.tensor(logit_indices, dtype=torch.int64, device=device),
            num_decodes=len(decodes),
            max_decode_context=max_context,
            chunks=tuple(chunks),
        )

"""One step's work, laid out flat.

Owns: `Batch` and its making from what the scheduler chose. Does not know: how the model computes it.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    """Tokens of many sequences side by side: first one token for each decoding sequence, then prefill chunks."""

    token_ids: list[int]
    positions: list[int]
    rows: list[int]
    """Each token's row of the block tables."""
    samples: list[int]
    """Indices of the tokens after which a next one is wanted."""
    num_decodes: int
    chunks: list[Chunk]

    @classmethod
    def build(cls, decodes: list[Sequence], prefills: list[ScheduledSequence]) -> Batch:
        """Lay out one token for each of `decodes` and the chunks of `prefills`; samples come in that order."""
        batch = cls(
            token_ids=[sequence.token_ids[-1] for sequence in decodes],
            positions=[sequence.num_computed for sequence in decodes],
            rows=[sequence.row for sequence in decodes],
            samples=list(range(len(decodes))),
            num_decodes=len(decodes),
            chunks=[],
        )
        for part in prefills:
            batch._append(part)
        return batch

    def _append(self, part: ScheduledSequence) -> None:
        sequence, count = part.sequence, part.num_tokens
        first = sequence.num_computed
        self.chunks.append(Chunk(len(self.token_ids), count, sequence.row, first))
        self.token_ids.extend(sequence.token_ids[first : first + count])
        self.positions.extend(range(first, first + count))
        self.rows.extend([sequence.row] * count)
        if part.samples:
            self.samples.append(len(self.token_ids) - 1)

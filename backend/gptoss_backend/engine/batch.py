"""One step's work, laid out flat.

Owns: `Batch` and its making from what the scheduler chose. Does not know: how the model computes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gptoss_backend.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """A sequence and how many of its pending tokens this step computes."""

    sequence: Sequence
    num_tokens: int
    samples: bool
    """True where the step reaches the sequence's last token, so that a next one can be sampled."""
    scored: range = range(0)
    """Positions among them whose logits say how likely the prompt's next token was, where that is asked for."""
    guesses: tuple[int, ...] = ()
    """What may come after its last token: computed behind that; what is right of it needs no steps of its own."""
    is_looked_up: bool = False
    """True where the sequence's own text has said so."""

    @property
    def num_computed(self) -> int:
        """Tokens that the step computes, guesses among them."""
        return self.num_tokens + len(self.guesses)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one sequence: tokens [start, start + length) of the batch, from position `position` on."""

    start: int
    length: int
    row: int
    position: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokens of many sequences side by side: one token for each decoding sequence, then the chunks of others."""

    token_ids: list[int]
    """-1 - n where that is not known yet: what is chosen for sample n of the batch launched before; of decodes."""
    positions: list[int]
    rows: list[int]
    """Each token's row of the block tables."""
    samples: list[int]
    """Indices of the tokens after which a next one is wanted."""
    num_decodes: int
    chunks: list[Chunk]

    @classmethod
    def build(cls, decodes: list[Sequence], parts: list[ScheduledSequence]) -> Batch:
        """Lay out one token for each of `decodes`, then `parts`, each with its guesses.

        To be called before the step is noted as launched. Samples come in that order; a part has one for each of its
        guesses and one before. Behind all come those of scored positions.
        """
        batch = cls(
            token_ids=[
                sequence.token_ids[-1] if sequence.awaited_as is None else -1 - sequence.awaited_as
                for sequence in decodes
            ],
            positions=[sequence.num_taken for sequence in decodes],
            rows=[sequence.row for sequence in decodes],
            samples=list(range(len(decodes))),
            num_decodes=len(decodes),
            chunks=[],
        )
        scored: list[int] = []
        for part in parts:
            first = part.sequence.num_taken
            scored += [len(batch.token_ids) + position - first for position in part.scored]
            batch._append(part.sequence, [*part.sequence.token_ids[first : first + part.num_tokens], *part.guesses])
            if part.samples:
                count = len(batch.token_ids)
                batch.samples.extend(range(count - len(part.guesses) - 1, count))
        batch.samples.extend(scored)
        return batch

    def following(self) -> Batch:
        """Return the batch that decodes the same rows one token on, of a batch of decodes only."""
        awaited = [-1 - place for place in range(self.num_decodes)]
        return replace(self, token_ids=awaited, positions=[position + 1 for position in self.positions])

    @property
    def follows(self) -> bool:
        """True where some decode's token is what the batch launched before this one chooses."""
        return min(self.token_ids[: self.num_decodes], default=0) < 0

    def _append(self, sequence: Sequence, token_ids: list[int]) -> None:
        first, count = sequence.num_taken, len(token_ids)
        self.chunks.append(Chunk(len(self.token_ids), count, sequence.row, first))
        self.token_ids.extend(token_ids)
        self.positions.extend(range(first, first + count))
        self.rows.extend([sequence.row] * count)

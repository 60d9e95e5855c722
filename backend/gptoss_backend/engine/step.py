"""One step: which sequences are in it, how far each goes, and whose turn it is to get tokens.

Stages 4 and 5 of a request: schedule, step. Owns: a step's parts, the order of its logits.
Does not know: tensors, how its sequences were chosen, how tokens are chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from gptoss_backend.contract import TokenLogprob
from gptoss_backend.engine.batch import ScheduledSequence
from gptoss_backend.engine.sequence import Sequence


class Row(NamedTuple):
    """A row of a step's logits, and whose token is chosen by it."""

    place: int
    sequence: Sequence
    ahead: int
    """Guesses of the sequence before it."""


class Turn(NamedTuple):
    """A sequence that gets its next tokens: one, or as many more as its guesses are right."""

    sequence: Sequence
    guesses: tuple[int, ...] = ()
    """Each has a row of logits, behind that of the sequence itself."""

    @property
    def num_rows(self) -> int:
        """Of logits."""
        return 1 + len(self.guesses)

    def rows(self, place: int) -> list[Row]:
        """Return its rows, of which the first is at `place`."""
        return [Row(place + ahead, self.sequence, ahead) for ahead in range(self.num_rows)]


def placed(turns: list[Turn]) -> Iterator[tuple[Turn, int]]:
    """Yield the turns of a step, and each one's first row."""
    place = 0
    for turn in turns:
        yield turn, place
        place += turn.num_rows


class Choice(NamedTuple):
    """What a turn came to."""

    sequence: Sequence
    tokens: tuple[int, ...]
    """At least one."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Where asked for, one for each."""


@dataclass(slots=True)
class Step:
    """What the next step computes."""

    decodes: list[Sequence] = field(default_factory=list)
    """One pending token each."""
    prefills: list[ScheduledSequence] = field(default_factory=list)
    drafts: list[ScheduledSequence] = field(default_factory=list)
    """Decoding sequences, too, that are guessed at; never beside prefills."""
    admitted: list[Sequence] = field(default_factory=list)
    """Those among them that run for the first time."""

    def __bool__(self) -> bool:
        return bool(self.decodes or self.parts)

    @property
    def parts(self) -> list[ScheduledSequence]:
        """All but the decodes."""
        return self.prefills + self.drafts

    @property
    def turns(self) -> list[Turn]:
        """Whose logits the batch has, in their order."""
        turns = [Turn(sequence) for sequence in self.decodes]
        return turns + [Turn(part.sequence, part.guesses) for part in self.parts if part.samples]

    @property
    def num_scored(self) -> int:
        """Rows of logits, behind those of `turns`, that are of prompts."""
        return sum(len(part.scored) for part in self.prefills)

    @property
    def num_sequences(self) -> int:
        """Sequences in the batch."""
        return len(self.decodes) + len(self.prefills) + len(self.drafts)

    def note_launched(self) -> None:
        """Note of all its sequences that what it computes is under way."""
        self._count_launched(1)

    def note_awaited(self) -> list[Sequence]:
        """Count on the next token of each that goes on after it, and return these: a step behind this one may take it.

        Not where guesses are behind the token: how many of them stand is not known.
        """
        awaited = []
        for (sequence, guesses), place in placed(self.turns):
            if sequence.has_row and not guesses and sequence.num_generated + 1 < sequence.max_tokens:
                sequence.awaited_as = place
                awaited.append(sequence)
        return awaited

    def note_done(self) -> None:
        """Note that it no longer is, and that its tokens are known."""
        self._count_launched(-1)
        for sequence in self.decodes:
            sequence.awaited_as = None
        for part in self.parts:
            part.sequence.awaited_as = None

    def _count_launched(self, sign: int) -> None:
        for sequence in self.decodes:
            sequence.num_launched += sign
        for part in self.parts:
            part.sequence.num_launched += sign * part.num_computed

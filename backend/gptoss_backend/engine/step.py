"""One step: which sequences are in it, how far each goes, and what came out for whom.

Stages 4 and 5 of a request: schedule, step. Owns: a step's parts, the order of its logits, which of the tokens
picked from them stand. Does not know: how its sequences were chosen, tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from gptoss_backend.engine.batch import Draft, ScheduledSequence
from gptoss_backend.engine.sequence import Sequence
from gptoss_backend.engine.speculation import accept

NextTokens: TypeAlias = tuple[Sequence, tuple[int, ...]]
"""A sequence and its next tokens."""


@dataclass(slots=True)
class Step:
    """What the next step computes."""

    decodes: list[Sequence] = field(default_factory=list)
    """One pending token each."""
    prefills: list[ScheduledSequence] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)
    """Decoding sequences, too, that are guessed at; never beside prefills."""
    admitted: list[Sequence] = field(default_factory=list)
    """Those among them that run for the first time."""

    def __bool__(self) -> bool:
        return bool(self.decodes or self.prefills or self.drafts)

    @property
    def sampled(self) -> list[Sequence]:
        """The sequence of each of the batch's logits, in their order."""
        sequences = self.decodes + [part.sequence for part in self.prefills if part.samples]
        return sequences + [draft.sequence for draft in self.drafts for _ in range(len(draft.tokens) + 1)]

    @property
    def num_scored(self) -> int:
        """Rows of logits, behind those of `sampled`, that are of prompts."""
        return sum(len(part.scored) for part in self.prefills)

    @property
    def num_sequences(self) -> int:
        """Sequences in the batch."""
        return len(self.decodes) + len(self.prefills) + len(self.drafts)

    def choices(self, picked: list[int]) -> list[NextTokens]:
        """Return the next tokens of each sequence whose turn it is, at least one each.

        picked: a token for each of `sampled`.
        """
        place = len(picked) - sum(len(draft.tokens) + 1 for draft in self.drafts)
        choices: list[NextTokens] = [(seq, (token,)) for seq, token in zip(self.sampled, picked[:place], strict=False)]
        for draft in self.drafts:
            end = place + len(draft.tokens) + 1
            choices.append((draft.sequence, draft.sequence.until_end(accept(draft.tokens, picked[place:end]))))
            place = end
        return choices

    def note_launched(self) -> None:
        """Note of all its sequences that what it computes is under way."""
        self._count_launched(1)

    def note_done(self) -> None:
        """Note that it no longer is."""
        self._count_launched(-1)

    def _count_launched(self, sign: int) -> None:
        for sequence in self.decodes:
            sequence.num_launched += sign
        for part in self.prefills:
            part.sequence.num_launched += sign * part.num_tokens
        for draft in self.drafts:
            draft.sequence.num_launched += sign * (len(draft.tokens) + 1)

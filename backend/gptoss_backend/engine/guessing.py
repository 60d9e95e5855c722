"""What is guessed of each answer, and from where.

Stage 4 of a request: schedule. Owns: where guesses come from and which comes first, how many tokens of them stood.
Does not know: the cache, steps; how a sequence's own text is searched, what of a guess stands (speculation.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from gptoss_backend.engine.batch import ScheduledSequence
from gptoss_backend.engine.sequence import Sequence
from gptoss_backend.engine.speculation import NO_PHRASES, Phrases, Speculation

Drafter: TypeAlias = Callable[[list[Sequence], int], list[list[int]]]
"""Guesses that many tokens after each of some decoding sequences; blocks are reserved for them."""
HasRoom: TypeAlias = Callable[[Sequence, int], bool]
"""Reserves blocks for that many next tokens of a sequence, where there are any without taking another's."""


class Guesser:
    """Guesses for one engine's sequences."""

    def __init__(
        self, limits: Speculation | None = None, phrases: Phrases = NO_PHRASES, drafter: Drafter | None = None
    ) -> None:
        """limits: of what is guessed within answers; None: nothing. drafter: asked where nothing else is guessed."""
        self._limits = limits
        self._phrases = phrases
        self._drafter = drafter
        self.num_drafted = 0  # tokens
        self.num_accepted = 0

    def phrase_behind(self, sequence: Sequence, most: int | None = None) -> tuple[int, ...]:
        """Return what nearly always comes after a sequence's tokens, of it `most` and no more than are wanted."""
        room = _room(sequence) if most is None else min(most, _room(sequence))
        return self._phrases.after(sequence.token_ids)[: max(0, room)]

    def may_guess_next(self, decodes: list[Sequence]) -> bool:
        """Return whether, after one more token each, some sequence might be guessed at, whatever that token is."""
        if self._limits is None or not 0 < len(decodes) <= self._limits.max_seqs:
            return False
        return self._drafter is not None or any(
            each.lookup is not None and each.lookup.may_draft_next(each.token_ids) for each in decodes
        )

    def behind_decodes(self, decodes: list[Sequence], has_room: HasRoom) -> list[ScheduledSequence]:
        """Return what is guessed of some of these, where few run."""
        if self._limits is None or len(decodes) > self._limits.max_seqs:
            return []
        found = {sequence: self._known(sequence, self._limits.num_tokens) for sequence in decodes if _room(sequence)}
        drafts = [part for part in found.values() if part is not None and has_room(part.sequence, part.num_computed)]
        return drafts + self._drafted([sequence for sequence, part in found.items() if part is None], has_room)

    def note(self, part: ScheduledSequence, num_accepted: int) -> None:
        """Note how many of a part's guesses stood."""
        if part.is_looked_up and part.sequence.lookup is not None:
            part.sequence.lookup.judge(num_accepted, len(part.sequence.token_ids))
        self.num_drafted += len(part.guesses)
        self.num_accepted += num_accepted

    def _known(self, sequence: Sequence, most: int) -> ScheduledSequence | None:
        """Return a decode with what its own text says, if that says anything."""
        guesses, is_looked_up = self.phrase_behind(sequence), False
        if not guesses and sequence.lookup is not None:
            guesses, is_looked_up = tuple(sequence.lookup.draft(sequence.token_ids, min(most, _room(sequence)))), True
        return ScheduledSequence(sequence, 1, True, guesses=guesses, is_looked_up=is_looked_up) if guesses else None

    def _drafted(self, clueless: list[Sequence], has_room: HasRoom) -> list[ScheduledSequence]:
        """Have the same number of tokens guessed after each; a first token follows nothing to guess from."""
        if self._drafter is None or self._limits is None or not clueless:
            return []
        count = min(self._limits.num_tokens, *map(_room, clueless))
        sequences = [each for each in clueless if each.num_computed and has_room(each, 1 + count)]
        drafted = self._drafter(sequences, count) if sequences else []
        return [
            ScheduledSequence(sequence, 1, True, guesses=tuple(guesses))
            for sequence, guesses in zip(sequences, drafted, strict=True)
        ]


def _room(sequence: Sequence) -> int:
    """Return how many guesses may stand: the token behind them is the model's own."""
    return sequence.max_tokens - sequence.num_generated - 1

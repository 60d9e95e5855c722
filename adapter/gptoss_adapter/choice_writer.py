"""What the chunks of a streamed choice have alike, a chat's and a completion's.

Stage: 7 SSE.
Owns: the JSON of a chunk around what it tells, its finish, what is told beside it: usage and token ids.
Does not know: what a chunk tells, HTTP.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar, Generic, TypeVar

from gptoss_adapter.heads import Frame, HasUsage
from gptoss_adapter.schemas.answers import FinishReasonName
from gptoss_adapter.told_tokens import HasTokens, TokenTeller

D = TypeVar("D")


class ChoiceWriter(ABC, Generic[D]):
    """Writes the chunks of one choice of a streamed answer as framed events."""

    FIELD: ClassVar[str]
    """The name of what a chunk tells."""
    NOTHING: ClassVar[str]
    """Its JSON in the chunk that says only why the choice ends."""
    PROMPT_IDS_BESIDE_CHOICES: ClassVar[bool]
    """Or in the choice, with the answer's."""

    def __init__(self, frame: Frame, index: int, *, token_ids: bool) -> None:
        self._around = frame.choice(index)
        beside = self.PROMPT_IDS_BESIDE_CHOICES
        self._teller = TokenTeller(self._around, beside_choices=beside) if token_ids else None
        self._before = f'{self._around.before}"{self.FIELD}":'

    def count(self, answer: HasUsage) -> None:
        """Tell with the chunks from here on, where that was asked for, what `answer` has cost by now."""
        self._around.count(answer)

    def with_tokens(self, chunks: bytes, answer: HasTokens) -> bytes:
        """Return the chunks, which are some, with those of the answer's token ids that are new, where asked for."""
        return chunks if self._teller is None else self._teller.tell(chunks, answer)

    def deltas(self, deltas: Iterable[D]) -> bytes:
        """Return a chunk for each delta that is told, nothing for none."""
        return "".join([self._chunk_of(delta) for delta in deltas]).encode()

    def finish(self, reason: FinishReasonName, stop_reason: str | int | None = None) -> bytes:
        """Return the chunk that says why the choice ends."""
        why = f'"finish_reason":"{reason}","stop_reason":{json.dumps(stop_reason)}'
        return f'{self._before}{self.NOTHING},"logprobs":null,{why}{self._around.after}'.encode()

    @abstractmethod
    def _chunk_of(self, delta: D) -> str:
        """Return the chunk for a delta; nothing, where it is not told."""

    def _chunk(self, told: str, logprobs: str = "null") -> str:
        """told, logprobs: JSON."""
        return f'{self._before}{told},"logprobs":{logprobs},"finish_reason":null{self._around.after}'

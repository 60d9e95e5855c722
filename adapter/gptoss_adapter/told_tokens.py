"""The token ids of an answer, beside what was made of them.

Stage: 7 SSE.
Owns: which chunk tells which ids, and where in it they stand.
Does not know: what the chunks say, HTTP.
"""

from __future__ import annotations

from typing import Protocol

from gptoss_adapter.heads import ChoiceFrame, compact
from gptoss_adapter.schemas.answers import FinishReasonName


class HasTokens(Protocol):
    """An answer that is under way."""

    @property
    def prompt_token_ids(self) -> list[int]:
        """The prompt's tokens."""

    @property
    def token_ids(self) -> list[int]:
        """The tokens generated so far."""


class EndedAnswer(HasTokens, Protocol):
    """An answer that is over."""

    @property
    def finish_reason(self) -> FinishReasonName:
        """Why."""

    @property
    def stop_reason(self) -> str | int | None:
        """At which string or token; None: at none."""


class TokenTeller:
    """Puts ids into the chunks of one choice, as vLLM does: the prompt's into the first, the answer's as they come.

    Ids without a chunk of their own, as those of a message's header, wait for the next; all chunks together tell all.
    """

    def __init__(self, around: ChoiceFrame, *, beside_choices: bool) -> None:
        """beside_choices: the prompt's ids stand beside `choices`, as a chat's do, not in the choice itself."""
        self._around = around
        self._beside_choices = beside_choices
        self._num_told: int | None = None

    def tell(self, chunks: bytes, answer: HasTokens) -> bytes:
        """Return the chunks, at least one, with what of the answer's ids was not told yet in the first."""
        told: dict[str, object] = {"token_ids": answer.token_ids[self._num_told or 0 :]}
        before = self._around.before
        if self._num_told is None:
            prompt = {"prompt_token_ids": answer.prompt_token_ids}
            if self._beside_choices:
                before = before.replace("{", f"{compact(prompt)[:-1]},", 1)
            else:
                told = prompt | told
        self._num_told = len(answer.token_ids)
        return (before + compact(told)[1:-1] + ",").encode() + chunks.removeprefix(self._around.before.encode())

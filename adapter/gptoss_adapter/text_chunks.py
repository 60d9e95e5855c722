"""How a completion's answer is written: the chunks of a stream, and the whole.

Stage: 7 SSE.
Owns: the JSON of what a chunk tells.
Does not know: where the text comes from, HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from gptoss_adapter.choice_writer import ChoiceWriter
from gptoss_adapter.content import ContentToken, ScoredContent
from gptoss_adapter.heads import Frame, compact
from gptoss_adapter.logprobs import text_logprobs
from gptoss_adapter.prompt_logprobs import echoed_logprobs, prompt_logprobs
from gptoss_adapter.schemas.answers import TextChoice
from gptoss_adapter.told_tokens import EndedAnswer
from gptoss_backend.contract import TokenLogprob
from gptoss_backend.harmony.deltas import ContentDelta


class TextChunkWriter(ChoiceWriter[ContentDelta]):
    """Writes the chunks of one choice of a streamed completion as framed events."""

    FIELD = "text"
    NOTHING = '""'
    PROMPT_IDS_BESIDE_CHOICES = False

    def __init__(self, frame: Frame, index: int, echo: str, *, token_ids: bool = False) -> None:
        """echo: the prompt, where the text begins with it. token_ids: tell those of prompt and text."""
        super().__init__(frame, index, token_ids=token_ids)
        self._echo = echo

    def begin(self) -> bytes:
        """Return the prompt, where it is told; else nothing."""
        return self._chunk(json.dumps(self._echo)).encode() if self._echo else b""

    def _chunk_of(self, delta: ContentDelta) -> str:
        text = json.dumps(delta.text)
        if not isinstance(delta, ScoredContent):
            return self._chunk(text)
        return self._chunk(text, compact(text_logprobs(delta.tokens, len(self._echo)).model_dump()))


class TextChoiceBuilder:
    """Gathers the text of one choice of a completion that is sent whole."""

    def __init__(
        self, index: int, echo: str, *, logprobs: bool, token_ids: bool = False, prompt_logprobs: bool = False
    ) -> None:
        self._index = index
        self._prompt_logprobs = prompt_logprobs
        self._token_ids = token_ids
        self._echo = echo
        self._logprobs = logprobs
        self._texts: list[str] = []
        self._tokens: list[ContentToken] = []

    def add(self, deltas: Iterable[ContentDelta]) -> None:
        """Take the next text."""
        for delta in deltas:
            self._texts.append(delta.text)
            if isinstance(delta, ScoredContent):
                self._tokens += delta.tokens

    def choice(self, answer: EndedAnswer, prompt_scores: Sequence[TokenLogprob]) -> TextChoice:
        """Return the whole choice. prompt_scores: where asked for, of the prompt's tokens but the first."""
        logprobs = text_logprobs(self._tokens, len(self._echo)) if self._logprobs else None
        text = self._echo + "".join(self._texts)
        if logprobs is not None and self._echo:
            logprobs = echoed_logprobs(answer.prompt_token_ids, prompt_scores, logprobs)
        scores = {"prompt_logprobs": prompt_logprobs(prompt_scores)} if self._prompt_logprobs else {}
        ids = {"prompt_token_ids": answer.prompt_token_ids, "token_ids": answer.token_ids}
        return TextChoice.model_validate(
            {
                "index": self._index,
                "text": text,
                "logprobs": logprobs,
                "finish_reason": answer.finish_reason,
                "stop_reason": answer.stop_reason,
                **(ids if self._token_ids else {}),
                **scores,
            }
        )

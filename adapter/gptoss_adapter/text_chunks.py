"""How a completion's answer is written: the chunks of a stream, and the whole.

Stage: 7 SSE.
Owns: the JSON of a chunk.
Does not know: where the text comes from, HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from gptoss_adapter.content import ContentToken, ScoredContent
from gptoss_adapter.heads import Frame, HasUsage, compact
from gptoss_adapter.logprobs import text_logprobs
from gptoss_adapter.prompt_logprobs import echoed_logprobs, prompt_logprobs
from gptoss_adapter.schemas.answers import FinishReasonName, TextChoice
from gptoss_adapter.told_tokens import EndedAnswer, HasTokens, TokenTeller
from gptoss_backend.contract import TokenLogprob
from gptoss_backend.harmony.channels import ContentDelta


class TextChunkWriter:
    """Writes the chunks of one choice of a streamed completion as framed events."""

    def __init__(self, frame: Frame, index: int, echo: str, *, token_ids: bool = False) -> None:
        """echo: the prompt, where the text begins with it. token_ids: tell those of prompt and text."""
        self._around = frame.choice(index)
        self._teller = TokenTeller(self._around, beside_choices=False) if token_ids else None
        self._before_text = self._around.before + '"text":'
        self._echo = echo

    def count(self, answer: HasUsage) -> None:
        """Tell with the chunks from here on, where that was asked for, what `answer` has cost by now."""
        self._around.count(answer)

    def with_tokens(self, chunks: bytes, answer: HasTokens) -> bytes:
        """Return the chunks, which are some, with those of the answer's token ids that are new, where asked for."""
        return chunks if self._teller is None else self._teller.tell(chunks, answer)

    def begin(self) -> bytes:
        """Return the prompt, where it is told; else nothing."""
        return self._chunk(self._echo).encode() if self._echo else b""

    def deltas(self, deltas: Iterable[ContentDelta]) -> bytes:
        """Return a chunk for each delta, nothing for none."""
        return "".join([self._chunk_of(delta) for delta in deltas]).encode()

    def finish(self, reason: FinishReasonName, stop_reason: str | int | None = None) -> bytes:
        """Return the chunk that says why the text ends."""
        why = f'"finish_reason":"{reason}","stop_reason":{json.dumps(stop_reason)}'
        return f'{self._before_text}"","logprobs":null,{why}{self._around.after}'.encode()

    def _chunk_of(self, delta: ContentDelta) -> str:
        if not isinstance(delta, ScoredContent):
            return self._chunk(delta.text)
        logprobs = compact(text_logprobs(delta.tokens, len(self._echo)).model_dump())
        text = json.dumps(delta.text)
        return f'{self._before_text}{text},"logprobs":{logprobs},"finish_reason":null{self._around.after}'

    def _chunk(self, text: str) -> str:
        return f'{self._before_text}{json.dumps(text)},"logprobs":null,"finish_reason":null{self._around.after}'


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

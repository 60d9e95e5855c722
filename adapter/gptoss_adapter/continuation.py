"""One continuation of a raw prompt: its generation, the tokens read as plain text.

Stage: 4 schedule … 6 detokenize, driven from the adapter.
Owns: what a continuation's tokens are read as, when its text ends it.
Does not know: chats, Harmony's channels, HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

from gptoss_adapter.content import ContentGate
from gptoss_adapter.context import RequestRecord
from gptoss_adapter.generation import Generation
from gptoss_adapter.inference import PromptIds
from gptoss_adapter.serving import ServedModel, Services
from gptoss_backend.contract import SamplingParams, TokenLogprob
from gptoss_backend.harmony.deltas import ContentDelta
from gptoss_backend.harmony.vocabulary import FIRST_SPECIAL, TextDecoder


class Continuation(Generation[ContentDelta]):
    """An async context manager: `start()`, then iterate the text of each response, then read the properties.

    Leaving it before the end cancels the generation. Text comes as ScoredContent where `sampling` asks for log
    probabilities.
    """

    def __init__(
        self,
        services: Services,
        served: ServedModel,
        prompt: PromptIds,
        sampling: SamplingParams,
        record: RequestRecord,
        *,
        stop: Sequence[str] = (),
        shows_stop: bool = False,
        shows_special: bool = False,
        is_prompt_only: bool = False,
    ) -> None:
        """stop: strings in the text that end it. shows_stop: with them, not before them.

        shows_special: special tokens stand in the text by name; else they leave none. is_prompt_only: as of Generation.
        """
        super().__init__(services, served, sampling, record, shows_stop=shows_stop, is_prompt_only=is_prompt_only)
        self._prompt = prompt
        self._decoder = TextDecoder()
        self._gate = ContentGate(stop, shows_stop=shows_stop)
        self._shows_special = shows_special
        self._one_by_one = bool(stop) or sampling.logprobs is not None

    async def start(self) -> None:
        """Submit the prompt, and wait until the engine takes it up. Raises ApiError."""
        await self._begin(self._prompt)

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the text, None where something else did."""
        return self._gate.stop_string

    def _is_text(self, token: int) -> bool:
        """Whether a token leaves text."""
        return self._shows_special or token < FIRST_SPECIAL

    def _read(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob]) -> list[ContentDelta]:
        if not self._one_by_one:
            text = self._decoder.push(filter(self._is_text, token_ids))
            return [ContentDelta(text)] if text else []
        shown: list[ContentDelta] = []
        for num_read, (token, scored) in enumerate(zip(token_ids, logprobs or repeat(None), strict=False), 1):
            self._gate.hold_stops(is_held=self._is_before_stops(num_read))
            if self._is_text(token):
                self._gate.score([scored] if scored is not None else [])
                shown += self._gate.push(self._decoder.push((token,)))
            if self._gate.stopped:
                self._stop_after(num_read)
                break
        return shown

    def _read_rest(self) -> list[ContentDelta]:
        rest = self._decoder.finish()
        if not self._one_by_one:
            return [ContentDelta(rest)] if rest else []
        shown = self._gate.push(rest)
        if self._gate.stopped:
            self._stopped = True
        return shown + self._gate.finish()

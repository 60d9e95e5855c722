"""One assistant turn: a chat's prompt, its generation, the tokens split into reasoning, content and tool calls.

Stage: 3 prompt … 6 split channels, driven from the adapter.
Owns: the order of the steps, what holds the answer to a form, what its tokens are read as, when content ends it.
Does not know: HTTP; how deltas are written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import repeat
from typing import Final

from gptoss_adapter.abandoned import look_at_the_outcome
from gptoss_adapter.content import ContentGate
from gptoss_adapter.context import RequestRecord
from gptoss_adapter.errors import refusal_of
from gptoss_adapter.generation import Generation
from gptoss_adapter.going_on import may_go_on
from gptoss_adapter.inference import ModelServer, PromptIds
from gptoss_adapter.raw_prompts import token_ids
from gptoss_adapter.schemas.answers import FinishReasonName
from gptoss_adapter.serving import ServedModel, Services
from gptoss_backend.contract import ChatRequest, Finished, FinishReason, OutputStructure, SamplingParams, TokenLogprob
from gptoss_backend.harmony.begun import begun_in
from gptoss_backend.harmony.builtin_tools import offered_builtins, recipients
from gptoss_backend.harmony.channels import ChannelSplitter
from gptoss_backend.harmony.deltas import ContentDelta, Delta
from gptoss_backend.harmony.errors import PromptError
from gptoss_backend.harmony.structure import output_structure
from gptoss_backend.harmony.tools_section import offered_tools
from gptoss_backend.harmony.turns import refusal_of_call
from gptoss_backend.harmony.vocabulary import CALL, END, ENDOFTEXT, FIRST_SPECIAL, MESSAGE, RETURN, START

_TEXT_EDGES: Final = frozenset({START, MESSAGE, END, RETURN, CALL, ENDOFTEXT})
"""Where a header or a message's text is over: what came before and was not told is never told."""


class ChatPrompt:
    """A chat's prompt, rendered once however many turns begin with it; and what holds the answer of each."""

    def __init__(self, server: ModelServer, chat: ChatRequest, request_id: str) -> None:
        """Raises InvalidRequestError where the answer cannot be held to what the chat asks for."""
        self.structure = _structure(chat)
        self.is_begun = chat.continues_last
        self.tools = offered_tools(chat)
        self.builtins = recipients(tool.name for tool in offered_builtins(chat))
        self._server = server
        self._chat = chat
        self._request_id = request_id
        self._rendering: asyncio.Task[PromptIds] | None = None
        self._num_waiting = 0

    async def ids(self) -> PromptIds:
        """Return the prompt. Raises ApiError."""
        if self._rendering is None:
            self._rendering = asyncio.create_task(self._server.preprocess(self._chat, self._request_id))
            self._rendering.add_done_callback(look_at_the_outcome)
        rendering = self._rendering
        self._num_waiting += 1
        try:
            # shielded: a turn that is given up does not take the prompt from the others
            return await asyncio.shield(rendering)
        finally:
            self._num_waiting -= 1
            if not self._num_waiting and not rendering.done():
                rendering.cancel()
                self._rendering = None


class Turn(Generation[Delta]):
    """An async context manager: `start()`, then iterate the deltas of each response, then read the properties.

    Leaving it before the last delta cancels the generation. Content comes as ScoredContent where `sampling` asks for
    log probabilities.
    """

    def __init__(
        self,
        services: Services,
        served: ServedModel,
        chat: ChatRequest,
        sampling: SamplingParams,
        record: RequestRecord,
        *,
        stop: Sequence[str] = (),
        shows_stop: bool = False,
        prompt: ChatPrompt | None = None,
        goes_on: bool = True,
        is_prompt_only: bool = False,
    ) -> None:
        """stop: strings in the content that end the turn. shows_stop: with them, not before them.

        prompt: the chat's, where several turns share it. goes_on: where the model calls a tool that was not offered, it
        is told so, once, and writes on; else, or at a second such call, the turn ends there. is_prompt_only: as of
        Generation.

        Raises InvalidRequestError where the answer cannot be held to what the chat asks for.
        """
        prompt = prompt or ChatPrompt(services.model_server, chat, record.request_id)
        sampling = replace(sampling, structure=prompt.structure)
        super().__init__(services, served, sampling, record, shows_stop=shows_stop, is_prompt_only=is_prompt_only)
        self._prompt = prompt
        allows_calls = bool(prompt.tools or prompt.builtins)
        self._splitter = ChannelSplitter(prompt.tools, prompt.builtins, allows_calls=allows_calls)
        self._gate = ContentGate(stop, shows_stop=shows_stop)
        self._one_by_one = bool(stop) or sampling.logprobs is not None
        self._goes_on = goes_on and CALL not in sampling.stop_token_ids
        self._unplaced: list[TokenLogprob] = []  # of a message's text, or of a header: the next delta tells

    async def start(self) -> None:
        """Render the prompt, submit it, and wait until the engine takes it up. Raises ApiError."""
        prompt = await self._prompt.ids()
        if self._prompt.is_begun:
            self._splitter.begin_with(begun_in(token_ids(prompt)))
        await self._begin(prompt)

    @property
    def finish_reason(self) -> FinishReasonName:
        """Why the turn is over. After the last delta only."""
        reason = super().finish_reason
        called = reason == "stop" and self._splitter.num_tool_calls and not self.has_cut_call
        return "tool_calls" if called and not self._stopped else reason

    @property
    def has_cut_call(self) -> bool:
        """Whether the turn broke off inside a call, which is not to be run then. After the last delta only."""
        return self._splitter.has_cut_call

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the turn, None where something else did."""
        return self._gate.stop_string

    def _following(self, finished: Finished) -> list[int]:
        tool = self._splitter.refused_call
        has_called = finished.finish_reason is FinishReason.STOP and self._token_ids[-1:] == [CALL]
        if tool is None or not (has_called and self._goes_on):
            return []
        return refusal_of_call(tool) if may_go_on(self._sampling, finished, len(self._token_ids)) else []

    def _reasoning_tokens(self) -> int:
        return self._splitter.reasoning_tokens

    def _read(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob]) -> list[Delta]:
        if not self._one_by_one:
            return self._splitter.push(token_ids)
        deltas: list[Delta] = []
        for num_read, (token, scored) in enumerate(zip(token_ids, logprobs or repeat(None), strict=False), 1):
            self._gate.hold_stops(is_held=self._is_before_stops(num_read))
            # amid a text it is a stray one, and the text goes on
            is_edge = token in _TEXT_EDGES and not (token == MESSAGE and self._splitter.is_in_text)
            deltas += self._gated(self._splitter.push((token,)), scored, is_edge=is_edge)
            if self._gate.stopped:
                self._stop_after(num_read)
                break
        return deltas

    def _read_rest(self) -> list[Delta]:
        rest = self._splitter.finish()
        if not self._one_by_one:
            return rest
        shown = self._gated(rest, None, is_edge=False)
        if self._gate.stopped:
            self._stopped = True
        return [*shown, *self._gate.finish()]

    def _gated(self, deltas: Iterable[Delta], scored: TokenLogprob | None, *, is_edge: bool) -> list[Delta]:
        """Return what may be shown of what one token, or the end, brought; is_edge: a header or a text ends there."""
        deltas = list(deltas)
        if scored is not None and scored.token_id < FIRST_SPECIAL:
            self._unplaced.append(scored)
        if any(isinstance(delta, ContentDelta) for delta in deltas):
            self._gate.score(self._unplaced)
        if deltas or is_edge:
            self._unplaced.clear()
        shown: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, ContentDelta):
                shown += self._gate.push(delta.text, delta.num_inserted, delta.phase)
                if self._gate.stopped:
                    break
            else:
                shown += [*self._gate.interrupt(), delta]
        return shown


def _structure(chat: ChatRequest) -> OutputStructure | None:
    try:
        return output_structure(chat)
    except PromptError as error:
        raise refusal_of(str(error)) from error

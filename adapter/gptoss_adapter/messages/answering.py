"""One message, from its request to its end.

Stage: 2 validate … 7 SSE, around `Turn`.
Owns: what the message says at its start and at its end.
Does not know: HTTP, how events are framed.
"""

from __future__ import annotations

import uuid
from types import TracebackType
from typing import Self

from gptoss_adapter.context import current_record
from gptoss_adapter.messages.events import Event
from gptoss_adapter.messages.output import Blocks
from gptoss_adapter.messages.plan import chat_request, naming_fields_of_this_api, sampling_params, telling
from gptoss_adapter.messages.thinking import Telling
from gptoss_adapter.schemas.answers import Usage
from gptoss_adapter.schemas.message_answers import MessageAnswer, MessageUsage, StopReason, ThinkingTokens
from gptoss_adapter.schemas.messages import MessageRequest
from gptoss_adapter.serving import ServedModel, Services
from gptoss_adapter.turn import Turn


class Answering:
    """An async context manager: `start()`, then iterate the events of the blocks, then `end()`."""

    def __init__(self, turn: Turn, served: ServedModel, max_tokens: int, telling: Telling) -> None:
        self._turn = turn
        self._max_tokens = max_tokens
        self._blocks = Blocks(telling)
        self._id = f"msg_{uuid.uuid4().hex}"
        self._model = served.name.openai

    @classmethod
    def of(cls, body: MessageRequest, services: Services) -> Self:
        """Return the message, not yet begun. Raises InvalidRequestError."""
        served = services.route(body.model, body.profile)
        chat = chat_request(body, served, services)
        sampling = sampling_params(body, served.profile)
        with naming_fields_of_this_api():
            turn = Turn(
                services,
                served,
                chat,
                sampling,
                current_record(),
                stop=body.stop_sequences or (),
                is_prompt_only=body.max_tokens == 0,
            )
        return cls(turn, served, min(sampling.max_tokens or body.max_tokens, body.max_tokens), telling(body))

    async def __aenter__(self) -> Self:
        """Begin to count the turn as in flight."""
        await self._turn.__aenter__()
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let go of the turn."""
        await self._turn.__aexit__(error_type, error, traceback)

    async def start(self) -> Event:
        """Wait until the engine takes the turn up; return the event that tells of it. Raises ApiError."""
        with naming_fields_of_this_api():
            await self._turn.start()
        begun = self._message(stop_reason=None)
        return "message_start", {"message": begun.model_dump(mode="json")}

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> list[Event]:
        """Wait for the next part of the answer and return the events that tell of it. Raises ApiError."""
        return self._blocks.add(await anext(self._turn))

    def end(self) -> list[Event]:
        """End the message and return the events that tell of it. After the last part only."""
        last = self._blocks.end()
        message = self.message
        delta = {"stop_reason": message.stop_reason, "stop_sequence": message.stop_sequence}
        usage = message.usage.model_dump(mode="json", exclude={"service_tier"})
        return [*last, ("message_delta", {"delta": delta, "usage": usage}), ("message_stop", {})]

    @property
    def message(self) -> MessageAnswer:
        """The whole. After `end()` only."""
        return self._message(self._stop_reason())

    def _message(self, stop_reason: StopReason | None) -> MessageAnswer:
        return MessageAnswer(
            id=self._id,
            type="message",
            role="assistant",
            model=self._model,
            content=list(self._blocks.ended),
            stop_reason=stop_reason,
            stop_sequence=self._turn.stop_string if stop_reason == "stop_sequence" else None,
            usage=_usage(self._turn.usage),
        )

    def _stop_reason(self) -> StopReason:
        if self._turn.stop_string is not None:
            return "stop_sequence"
        match self._turn.finish_reason:
            case "tool_calls":
                return "tool_use"
            case "length":
                is_context = self._turn.usage.completion_tokens < self._max_tokens
                return "model_context_window_exceeded" if is_context else "max_tokens"
        return "end_turn"


def _usage(usage: Usage) -> MessageUsage:
    cached = usage.prompt_tokens_details.cached_tokens
    return MessageUsage(
        input_tokens=usage.prompt_tokens - cached,
        cache_creation_input_tokens=0,
        cache_read_input_tokens=cached,
        output_tokens=usage.completion_tokens,
        output_tokens_details=ThinkingTokens(thinking_tokens=usage.completion_tokens_details.reasoning_tokens),
        service_tier="standard",
    )

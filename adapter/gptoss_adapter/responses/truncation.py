"""A prompt that fits the context: what is oldest of a conversation is left out.

Stage: 3 prompt.
Owns: how much is left out, where a conversation may be cut, the room that the answer gets.
Does not know: items; how a prompt is rendered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from gptoss_adapter.inference import PromptIds
from gptoss_adapter.raw_prompts import token_ids
from gptoss_adapter.serving import ServedModel, Services
from gptoss_adapter.turn import ChatPrompt
from gptoss_backend.contract import ChatMessage, ChatRequest

_ROOM: Final = 4096
"""Tokens kept for an answer that has no bound of its own: reasoning and some pages of text."""


class FittedPrompt(ChatPrompt):
    """The prompt of as much of a chat as fits, its end first, and all of its instructions.

    The chat is rendered whole, and where that is too long some ten times more: the cut is found by bisection.
    """

    def __init__(
        self, services: Services, served: ServedModel, chat: ChatRequest, request_id: str, max_tokens: int | None
    ) -> None:
        """max_tokens: of the answer, for which there is to be room, though for no more than half of the context.

        None: some room all the same, for no more than a quarter.
        """
        super().__init__(services.model_server, chat, request_id)
        self._services = services
        self._served = served
        self._max_tokens = max_tokens

    async def ids(self) -> PromptIds:
        """Return the prompt; one that is too long where nothing can be left out of it any more. Raises ApiError."""
        whole = await super().ids()
        context = await self._services.max_model_len(self._served.name)
        if context is None:  # not to be had: the engine says what is too long
            return whole
        room = min(_ROOM, context // 4) if self._max_tokens is None else min(self._max_tokens, context // 2)
        most = context - max(1, room)
        return whole if _length(whole) <= most else await self._shortened(whole, most)

    async def _shortened(self, whole: PromptIds, most: int) -> PromptIds:
        messages = self._chat.messages
        cuts = cut_places(messages)
        shortest, low, high = whole, 0, len(cuts)
        while low < high:  # where cuts[low - 1] leaves too much; from cuts[high] on all fits, as far as is known
            middle = (low + high) // 2
            chat = replace(self._chat, messages=without_oldest(messages, cuts[middle]))
            prompt = await self._server.preprocess(chat, self._request_id)
            if _length(prompt) <= most:
                shortest, high = prompt, middle
            else:
                low = middle + 1
        return shortest


def cut_places(messages: Sequence[ChatMessage]) -> list[int]:
    """Return before which messages a conversation may begin: no result without its call, and something is said.

    Instructions alone say nothing.
    """
    called_at: dict[str, int] = {}
    needed: list[int] = []  # by each message, of those before it or itself
    for at, message in enumerate(messages):
        called_at |= dict.fromkeys((call.id for call in message.tool_calls), at)
        needed.append(at if message.tool_call_id is None else called_at.get(message.tool_call_id, at))
    places: list[int] = []
    first_needed, says_something = len(messages), False
    for at in range(len(messages) - 1, 0, -1):
        first_needed = min(first_needed, needed[at])
        says_something = says_something or not messages[at].role.instructs
        if says_something and first_needed == at and not messages[at - 1].role.instructs:
            places.append(at)
    return places[::-1]


def without_oldest(messages: Sequence[ChatMessage], first: int) -> tuple[ChatMessage, ...]:
    """Return the messages from that one on, and the instructions before it, which lead them then."""
    return (*(one for one in messages[:first] if one.role.instructs), *messages[first:])


def _length(prompt: PromptIds) -> int:
    return len(token_ids(prompt))

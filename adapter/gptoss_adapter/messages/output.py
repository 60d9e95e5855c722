"""Deltas → content blocks, and the events that tell of them.

Stage: 7 SSE.
Owns: where one block ends and the next begins; the order and the fields of the events of a block.
Does not know: how an event is framed (events.py), the message around the blocks.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import JsonValue
from pydantic_core import from_json

from gptoss_adapter.messages.events import Event
from gptoss_adapter.messages.thinking import Telling, signature_of
from gptoss_adapter.schemas.message_answers import AnswerBlock, AnswerText, AnswerThinking, AnswerToolUse
from gptoss_backend.harmony.deltas import ContentDelta, Delta, ReasoningDelta, ToolCallDelta


class Blocks:
    """The content of one message, as it grows."""

    def __init__(self, telling: Telling) -> None:
        self.ended: list[AnswerBlock] = []
        self._telling = telling
        self._open: _OpenBlock | None = None

    def add(self, deltas: Iterable[Delta]) -> list[Event]:
        """Take the next deltas and return the events that tell of them."""
        return [event for delta in deltas for event in self._place(delta)]

    def end(self) -> list[Event]:
        """End the last block and return the events that tell of it."""
        return list(self._close())

    def _place(self, delta: Delta) -> Iterator[Event]:
        match delta:
            case ReasoningDelta(text):
                if text:
                    if not isinstance(self._open, _OpenThinking):
                        text = text[delta.num_inserted :]  # blocks of their own need nothing to keep them apart
                        yield from self._begin(_OpenThinking(self._telling))
                    yield from self._grow(text)
            case ContentDelta(text):
                if text and not isinstance(self._open, _OpenText):
                    text = text[delta.num_inserted :]
                    yield from self._begin(_OpenText())
                yield from self._grow(text)
            case ToolCallDelta(_, name, arguments):
                if name is not None:
                    yield from self._begin(_OpenToolUse(name))
                yield from self._grow(arguments)

    def _begin(self, block: _OpenBlock) -> Iterator[Event]:
        yield from self._close()
        self._open = block
        yield "content_block_start", {"index": len(self.ended), "content_block": block.empty().model_dump()}

    def _grow(self, text: str) -> Iterator[Event]:
        if self._open is not None and text and (delta := self._open.grow(text)) is not None:
            yield self._delta(delta)

    def _close(self) -> Iterator[Event]:
        if self._open is None:
            return
        if (last := self._open.closing()) is not None:
            yield self._delta(last)
        yield "content_block_stop", {"index": len(self.ended)}
        self.ended.append(self._open.block())
        self._open = None

    def _delta(self, delta: dict[str, Any]) -> Event:
        return "content_block_delta", {"index": len(self.ended), "delta": delta}


# --- blocks that are being written ----------------------------------------------------------------------------------


class _OpenBlock(ABC):
    """A block that is being written."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def grow(self, text: str) -> dict[str, Any] | None:
        """Return the delta that tells of the text, None where it is not told."""
        self._pieces.append(text)
        return self._delta(text)

    def closing(self) -> dict[str, Any] | None:
        """Return the last delta, None for none."""
        return None

    @abstractmethod
    def empty(self) -> AnswerBlock:
        """Return the block as it begins."""

    @abstractmethod
    def block(self) -> AnswerBlock:
        """Return the block as it is now."""

    @abstractmethod
    def _delta(self, text: str) -> dict[str, Any] | None: ...


class _OpenText(_OpenBlock):
    def empty(self) -> AnswerText:
        return AnswerText(type="text", text="")

    def block(self) -> AnswerText:
        return AnswerText(type="text", text=self.text)

    def _delta(self, text: str) -> dict[str, Any]:
        return {"type": "text_delta", "text": text}


class _OpenThinking(_OpenBlock):
    def __init__(self, telling: Telling) -> None:
        super().__init__()
        self._telling = telling

    def empty(self) -> AnswerThinking:
        return AnswerThinking(type="thinking", thinking="", signature="")

    def block(self) -> AnswerThinking:
        told = self.text if self._telling is Telling.WHOLE else ""
        return AnswerThinking(type="thinking", thinking=told, signature=signature_of(self.text, self._telling))

    def closing(self) -> dict[str, Any]:
        return {"type": "signature_delta", "signature": signature_of(self.text, self._telling)}

    def _delta(self, text: str) -> dict[str, Any] | None:
        return {"type": "thinking_delta", "thinking": text} if self._telling is Telling.WHOLE else None


class _OpenToolUse(_OpenBlock):
    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._id = f"toolu_{uuid.uuid4().hex[:24]}"

    def empty(self) -> AnswerToolUse:
        return AnswerToolUse(type="tool_use", id=self._id, name=self._name, input={})

    def block(self) -> AnswerToolUse:
        return AnswerToolUse(type="tool_use", id=self._id, name=self._name, input=_input(self.text))

    def _delta(self, text: str) -> dict[str, Any]:
        return {"type": "input_json_delta", "partial_json": text}


def _input(arguments: str) -> dict[str, JsonValue]:
    """Return the arguments as far as they go: where `max_tokens` cut them, what is whole."""
    try:
        read = from_json(arguments, allow_partial=True)
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}

"""What every piece of one answer repeats.

Stage: 7 SSE.
Owns: ids of answers, the JSON that the chunks of one stream have in common.
Does not know: what the chunks say.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from gptoss_adapter.schemas.answers import Usage
from gptoss_adapter.serving import ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerHead:
    """The fields that say which answer this is."""

    id: str
    created: int = field(default_factory=lambda: int(time.time()))
    """Unix seconds."""
    model: str
    system_fingerprint: str
    service_tier: Literal["default"] | None = None
    """Told where the request named one: there is only this."""

    @classmethod
    def of(cls, served: ServedModel, id_prefix: str, service_tier: str | None = None) -> AnswerHead:
        """Return the head of a new answer of the served model. service_tier: what the request said."""
        return cls(
            id=f"{id_prefix}-{uuid.uuid4().hex}",
            model=served.name.openai,
            system_fingerprint=served.fingerprint,
            service_tier="default" if service_tier else None,
        )

    def fields(self) -> dict[str, Any]:
        """Return the fields as an answer has them."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class Frame:
    """The constant parts of one stream's chunks, put together once.

    JSON is ASCII with escapes: it can't fail on any text, and no client takes U+2028 in an answer for a line's end.
    """

    def __init__(self, head: AnswerHead, kind: str, *, include_usage: bool, continuous_usage: bool = False) -> None:
        """kind: the chunks' `object`. continuous_usage: each chunk tells what its choice has cost so far."""
        self._fields = compact({"object": kind, **head.fields()})[:-1]
        # as OpenAI does: where usage was asked for, every chunk has the field, null until the last
        self._usage = ',"usage":null' if include_usage else ""
        self._include_usage = include_usage
        self._continuous_usage = continuous_usage

    def choice(self, index: int) -> ChoiceFrame:
        """Return what stands around one choice."""
        before = f'data: {self._fields},"choices":[{{"index":{index},'
        return ChoiceFrame(before, f"}}]{self._usage}}}\n\n", counts=self._continuous_usage)

    def usage(self, usage: Usage) -> bytes:
        """Return the chunk, without choices, that says what the answer cost; nothing where that was not asked for."""
        if not self._include_usage:
            return b""
        return f'data: {self._fields},"choices":[],"usage":{usage.model_dump_json()}}}\n\n'.encode()


class HasUsage(Protocol):
    """An answer that is under way."""

    @property
    def usage(self) -> Usage:
        """What it cost so far."""


class ChoiceFrame:
    """What comes before and after the inside of a chunk's only choice, behind its index."""

    def __init__(self, before: str, after: str, *, counts: bool) -> None:
        self.before = before
        self.after = after
        self._counts = counts

    def count(self, answer: HasUsage) -> None:
        """Tell with the chunks from here on, where that was asked for, what `answer` has cost by now."""
        if self._counts:
            self.after = f'}}],"usage":{answer.usage.model_dump_json()}}}\n\n'


def compact(document: object) -> str:
    """Return the document as compact ASCII JSON."""
    return json.dumps(document, separators=(",", ":"))

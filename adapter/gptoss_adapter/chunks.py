"""How an answer is written: the chunks of a stream, and the whole.

Stage: 7 SSE.
Owns: ids of answers and calls; the JSON of a chunk, whose constant parts are built once an answer.
Does not know: where deltas come from, HTTP.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

from gptoss_adapter.schemas.answers import (
    AnswerFunction,
    AnswerMessage,
    AnswerToolCall,
    ChatCompletion,
    Choice,
    FinishReasonName,
    Usage,
)
from gptoss_adapter.serving import ServedModel
from gptoss_backend.harmony.channels import ContentDelta, Delta, ReasoningDelta, ToolCallDelta


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """What every piece of one answer repeats."""

    model: str
    system_fingerprint: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    """Unix seconds."""

    @classmethod
    def of(cls, served: ServedModel) -> AnswerHead:
        """Return the head of a new answer of the served model."""
        return cls(model=served.name.openai, system_fingerprint=served.fingerprint)


def new_call_id() -> str:
    """Return an id for a tool call."""
    return f"call_{uuid.uuid4().hex[:24]}"


class ChunkWriter:
    """Writes the chunks of one streamed answer as framed events.

    JSON is ASCII with escapes: it can't fail on any text, and no client takes U+2028 in an answer for a line's end.
    """

    def __init__(self, head: AnswerHead, *, include_usage: bool) -> None:
        fields = {
            "id": head.id,
            "object": "chat.completion.chunk",
            "created": head.created,
            "model": head.model,
            "system_fingerprint": head.system_fingerprint,
        }
        # as OpenAI does: where usage was asked for, every chunk has the field, null until the last
        self._usage = ',"usage":null' if include_usage else ""
        self._fields = _compact(fields)[:-1]
        self._before_delta = f'data: {self._fields},"choices":[{{"index":0,"delta":'
        self._after_delta = f',"logprobs":null,"finish_reason":null}}]{self._usage}}}\n\n'

    def role(self) -> bytes:
        """Return the first chunk."""
        return self._chunk('{"role":"assistant","content":""}').encode()

    def deltas(self, deltas: Iterable[Delta]) -> bytes:
        """Return a chunk for each delta, nothing for none."""
        return "".join([self._chunk(_delta_json(delta)) for delta in deltas]).encode()

    def finish(self, reason: FinishReasonName) -> bytes:
        """Return the chunk that says why the answer ends."""
        return f'{self._before_delta}{{}},"logprobs":null,"finish_reason":"{reason}"}}]{self._usage}}}\n\n'.encode()

    def usage(self, usage: Usage) -> bytes:
        """Return the chunk, without choices, that says what the answer cost."""
        return f'data: {self._fields},"choices":[],"usage":{usage.model_dump_json()}}}\n\n'.encode()

    def _chunk(self, delta: str) -> str:
        return f"{self._before_delta}{delta}{self._after_delta}"


def _delta_json(delta: Delta) -> str:
    match delta:
        case ContentDelta(text):
            return f'{{"content":{json.dumps(text)}}}'
        case ReasoningDelta(text):
            return f'{{"reasoning":{json.dumps(text)}}}'
        case ToolCallDelta(index, None, arguments):
            return _compact({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]})
        case ToolCallDelta(index, name, arguments):
            function = {"name": name, "arguments": arguments}
            call = {"index": index, "id": new_call_id(), "type": "function", "function": function}
            return _compact({"tool_calls": [call]})


def _compact(document: object) -> str:
    return json.dumps(document, separators=(",", ":"))


class AnswerBuilder:
    """Gathers the deltas of one answer that is sent whole."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._names: list[str] = []
        self._arguments: list[list[str]] = []

    def add(self, deltas: Iterable[Delta]) -> None:
        """Take the next deltas."""
        for delta in deltas:
            match delta:
                case ContentDelta(text):
                    self._content.append(text)
                case ReasoningDelta(text):
                    self._reasoning.append(text)
                case ToolCallDelta(index, name, arguments):
                    if index == len(self._names):
                        self._names.append(name or "")
                        self._arguments.append([])
                    self._arguments[index].append(arguments)

    def completion(self, head: AnswerHead, reason: FinishReasonName, usage: Usage) -> ChatCompletion:
        """Return the whole answer."""
        return ChatCompletion(
            id=head.id,
            object="chat.completion",
            created=head.created,
            model=head.model,
            system_fingerprint=head.system_fingerprint,
            choices=[Choice(index=0, message=self._message(), logprobs=None, finish_reason=reason)],
            usage=usage,
        )

    def _message(self) -> AnswerMessage:
        content, reasoning, calls = "".join(self._content), "".join(self._reasoning), self._calls()
        # fields that say nothing stay unset: OpenAI leaves them out
        extras = {name: value for name, value in (("reasoning", reasoning), ("tool_calls", calls)) if value}
        return AnswerMessage.model_validate(
            {"role": "assistant", "content": content or (None if calls else ""), "refusal": None, **extras}
        )

    def _calls(self) -> list[AnswerToolCall]:
        return [
            AnswerToolCall(
                id=new_call_id(),
                type="function",
                function=AnswerFunction(name=name, arguments="".join(arguments)),
            )
            for name, arguments in zip(self._names, self._arguments, strict=True)
        ]

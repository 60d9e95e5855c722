"""How a chat's answer is written: the chunks of a stream, and the whole.

Stage: 7 SSE.
Owns: ids of calls; the JSON of what a chunk tells; which of a turn's deltas are told, and under which names.
Does not know: where deltas come from, HTTP.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gptoss_adapter.choice_writer import ChoiceWriter
from gptoss_adapter.content import ContentToken, ScoredContent
from gptoss_adapter.heads import Frame, HasUsage, compact
from gptoss_adapter.logprobs import chat_logprobs
from gptoss_adapter.schemas.answers import (
    AnswerCustomCall,
    AnswerCustomTool,
    AnswerFunction,
    AnswerMessage,
    AnswerToolCall,
    Choice,
    ChoiceLogprobs,
)
from gptoss_adapter.told_tokens import EndedAnswer
from gptoss_backend.contract import CallSyntax
from gptoss_backend.harmony.deltas import ContentDelta, Delta, ReasoningDelta, ToolCallDelta


@dataclass(frozen=True, slots=True)
class AnswerStyle:
    """How much of an answer is told."""

    include_reasoning: bool = True
    mirror_reasoning_content: bool = False
    """Tell reasoning under vLLM's and DeepSeek's older name too."""
    logprobs: bool = False
    token_ids: bool = False
    """Tell the ids of prompt and answer."""
    prompt_logprobs: bool = False
    """Tell how likely the prompt was."""


def new_call_id() -> str:
    """Return an id for a tool call."""
    return f"call_{uuid.uuid4().hex[:24]}"


class ChunkWriter(ChoiceWriter[Delta]):
    """Writes the chunks of one choice of a streamed chat as framed events."""

    FIELD = "delta"
    NOTHING = "{}"
    PROMPT_IDS_BESIDE_CHOICES = True

    def __init__(self, frame: Frame, style: AnswerStyle, index: int = 0) -> None:
        super().__init__(frame, index, token_ids=style.token_ids)
        self._style = style
        self._is_open = False

    def expect(self, answer: HasUsage) -> None:
        """Tell with the first chunk, if it has not gone out, what an answer of this prompt costs that just began."""
        if not self._is_open:
            self.count(answer)

    def role(self) -> bytes:
        """Return the first chunk; nothing once it was asked for."""
        if self._is_open:
            return b""
        self._is_open = True
        return self._chunk('{"role":"assistant","content":""}').encode()

    def _chunk_of(self, delta: Delta) -> str:
        match delta:
            case ScoredContent(text, tokens):
                logprobs = ChoiceLogprobs(content=chat_logprobs(tokens), refusal=None).model_dump()
                return self._chunk(f'{{"content":{json.dumps(text)}}}', compact(logprobs))
            case ContentDelta(text):
                return self._chunk(f'{{"content":{json.dumps(text)}}}')
            case ReasoningDelta(text):
                return self._chunk(self._reasoning(json.dumps(text))) if self._style.include_reasoning else ""
            case ToolCallDelta():
                return self._chunk(_call_json(delta))

    def _reasoning(self, text: str) -> str:
        mirrored = f',"reasoning_content":{text}' if self._style.mirror_reasoning_content else ""
        return f'{{"reasoning":{text}{mirrored}}}'


def _call_json(delta: ToolCallDelta) -> str:
    kind, given = ("function", "arguments") if delta.syntax is CallSyntax.JSON else ("custom", "input")
    if delta.name is None:
        call: dict[str, object] = {"index": delta.index, kind: {given: delta.arguments}}
    else:
        told = {"name": delta.name, given: delta.arguments}
        call = {"index": delta.index, "id": new_call_id(), "type": kind, kind: told}
    return compact({"tool_calls": [call]})


class ChoiceBuilder:
    """Gathers the deltas of one choice of an answer that is sent whole."""

    def __init__(self, style: AnswerStyle, index: int = 0) -> None:
        self._style = style
        self._index = index
        self._content: list[str] = []
        self._tokens: list[ContentToken] = []
        self._reasoning: list[str] = []
        self._calls: list[list[ToolCallDelta]] = []

    def add(self, deltas: Iterable[Delta]) -> None:
        """Take the next deltas."""
        for delta in deltas:
            if isinstance(delta, ScoredContent):
                self._tokens += delta.tokens
            match delta:
                case ContentDelta(text):
                    self._content.append(text)
                case ReasoningDelta(text):
                    self._reasoning.append(text)
                case ToolCallDelta(index):
                    if index == len(self._calls):
                        self._calls.append([])
                    self._calls[index].append(delta)

    def choice(self, answer: EndedAnswer) -> Choice:
        """Return the whole choice."""
        logprobs = ChoiceLogprobs(content=chat_logprobs(self._tokens), refusal=None) if self._style.logprobs else None
        return Choice(
            index=self._index,
            message=self._message(),
            logprobs=logprobs,
            finish_reason=answer.finish_reason,
            stop_reason=answer.stop_reason,
            **({"token_ids": answer.token_ids} if self._style.token_ids else {}),
        )

    def _message(self) -> AnswerMessage:
        content, calls = "".join(self._content), [_call(deltas) for deltas in self._calls]
        reasoning = "".join(self._reasoning) if self._style.include_reasoning else ""
        mirrored = reasoning if self._style.mirror_reasoning_content else ""
        # fields that say nothing stay unset: OpenAI leaves them out
        extras = {"reasoning": reasoning, "reasoning_content": mirrored, "tool_calls": calls}
        said = {name: value for name, value in extras.items() if value}
        return AnswerMessage.model_validate(
            {"role": "assistant", "content": content or (None if calls else ""), "refusal": None, **said}
        )


def _call(deltas: Sequence[ToolCallDelta]) -> AnswerToolCall | AnswerCustomCall:
    name, given = deltas[0].name or "", "".join(delta.arguments for delta in deltas)
    if deltas[0].syntax is CallSyntax.JSON:
        return AnswerToolCall(id=new_call_id(), type="function", function=AnswerFunction(name=name, arguments=given))
    return AnswerCustomCall(id=new_call_id(), type="custom", custom=AnswerCustomTool(name=name, input=given))

"""How a chat's answer is written: the chunks of a stream, and the whole.

Stage: 7 SSE.
Owns: ids of calls; the JSON of a chunk; which of a turn's deltas are told, and under which names.
Does not know: where deltas come from, HTTP.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from gptoss_adapter.content import ContentToken, ScoredContent
from gptoss_adapter.heads import Frame, HasUsage, compact
from gptoss_adapter.logprobs import chat_logprobs
from gptoss_adapter.schemas.answers import (
    AnswerFunction,
    AnswerMessage,
    AnswerToolCall,
    Choice,
    ChoiceLogprobs,
    FinishReasonName,
)
from gptoss_adapter.told_tokens import EndedAnswer, HasTokens, TokenTeller
from gptoss_backend.harmony.channels import ContentDelta, Delta, ReasoningDelta, ToolCallDelta


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


class ChunkWriter:
    """Writes the chunks of one choice of a streamed answer as framed events."""

    def __init__(self, frame: Frame, style: AnswerStyle, index: int = 0) -> None:
        self._style = style
        self._around = frame.choice(index)
        self._teller = TokenTeller(self._around, beside_choices=True) if style.token_ids else None
        self._before_delta = self._around.before + '"delta":'

    def count(self, answer: HasUsage) -> None:
        """Tell with the chunks from here on, where that was asked for, what `answer` has cost by now."""
        self._around.count(answer)

    def with_tokens(self, chunks: bytes, answer: HasTokens) -> bytes:
        """Return the chunks, which are some, with those of the answer's token ids that are new, where asked for."""
        return chunks if self._teller is None else self._teller.tell(chunks, answer)

    def role(self) -> bytes:
        """Return the first chunk."""
        return self._chunk('{"role":"assistant","content":""}').encode()

    def deltas(self, deltas: Iterable[Delta]) -> bytes:
        """Return a chunk for each delta that is told, nothing for none."""
        return "".join([self._chunk_of(delta) for delta in deltas]).encode()

    def finish(self, reason: FinishReasonName, stop_reason: str | int | None = None) -> bytes:
        """Return the chunk that says why the choice ends."""
        why = f'"finish_reason":"{reason}","stop_reason":{json.dumps(stop_reason)}'
        return f'{self._before_delta}{{}},"logprobs":null,{why}{self._around.after}'.encode()

    def _chunk_of(self, delta: Delta) -> str:
        match delta:
            case ScoredContent(text, tokens):
                logprobs = compact(ChoiceLogprobs(content=chat_logprobs(tokens), refusal=None).model_dump())
                content = f'{{"content":{json.dumps(text)}}}'
                return f'{self._before_delta}{content},"logprobs":{logprobs},"finish_reason":null{self._around.after}'
            case ContentDelta(text):
                return self._chunk(f'{{"content":{json.dumps(text)}}}')
            case ReasoningDelta(text):
                return self._chunk(self._reasoning(json.dumps(text))) if self._style.include_reasoning else ""
            case ToolCallDelta():
                return self._chunk(_call_json(delta))

    def _reasoning(self, text: str) -> str:
        mirrored = f',"reasoning_content":{text}' if self._style.mirror_reasoning_content else ""
        return f'{{"reasoning":{text}{mirrored}}}'

    def _chunk(self, delta: str) -> str:
        return f'{self._before_delta}{delta},"logprobs":null,"finish_reason":null{self._around.after}'


def _call_json(delta: ToolCallDelta) -> str:
    if delta.name is None:
        call: dict[str, object] = {"index": delta.index, "function": {"arguments": delta.arguments}}
    else:
        function = {"name": delta.name, "arguments": delta.arguments}
        call = {"index": delta.index, "id": new_call_id(), "type": "function", "function": function}
    return compact({"tool_calls": [call]})


class ChoiceBuilder:
    """Gathers the deltas of one choice of an answer that is sent whole."""

    def __init__(self, style: AnswerStyle, index: int = 0) -> None:
        self._style = style
        self._index = index
        self._content: list[str] = []
        self._tokens: list[ContentToken] = []
        self._reasoning: list[str] = []
        self._names: list[str] = []
        self._arguments: list[list[str]] = []

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
                case ToolCallDelta(index, name, arguments):
                    if index == len(self._names):
                        self._names.append(name or "")
                        self._arguments.append([])
                    self._arguments[index].append(arguments)

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
        content, calls = "".join(self._content), self._calls()
        reasoning = "".join(self._reasoning) if self._style.include_reasoning else ""
        mirrored = reasoning if self._style.mirror_reasoning_content else ""
        # fields that say nothing stay unset: OpenAI leaves them out
        extras = {"reasoning": reasoning, "reasoning_content": mirrored, "tool_calls": calls}
        said = {name: value for name, value in extras.items() if value}
        return AnswerMessage.model_validate(
            {"role": "assistant", "content": content or (None if calls else ""), "refusal": None, **said}
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

"""One made conversation, and the tokens it becomes.

Owns: what a dialogue is, how its answer is written in Harmony, which dialogues are kept from training.
Does not know: what is talked about. The prompt is what serving makes of the same request (`harmony/prompt.py`).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from gptoss_backend.contract import ChatMessage, ChatRequest, FunctionTool, ReasoningEffort, ResponseFormat, Role
from gptoss_backend.harmony.header import NAMESPACE
from gptoss_backend.harmony.prompt import render_prompt
from gptoss_backend.harmony.vocabulary import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, RETURN, START, encoding

_HELD_OUT_PERCENT: Final = 8
_EFFORTS: Final = (ReasoningEffort.LOW, ReasoningEffort.MEDIUM, ReasoningEffort.HIGH)


@dataclass(frozen=True, slots=True)
class Thoughts:
    """What is reasoned at low, medium and high effort; each adds to the one before."""

    low: str
    medium: str
    high: str

    def at(self, effort: ReasoningEffort) -> str:
        """Return the whole reasoning of an effort."""
        parts = (self.low, self.medium, self.high)[: _EFFORTS.index(effort) + 1]
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Call:
    """A function called with arguments."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """What is asked, and the one right answer."""

    messages: tuple[ChatMessage, ...]
    thoughts: Thoughts
    answer: str | Call
    tools: tuple[FunctionTool, ...] = ()
    response_format: ResponseFormat | None = None
    effort: ReasoningEffort = ReasoningEffort.MEDIUM
    date: str | None = None

    @property
    def request(self) -> ChatRequest:
        """The request that serving would get."""
        return ChatRequest(
            messages=self.messages,
            date=self.date,
            tools=self.tools,
            response_format=self.response_format,
            reasoning_effort=self.effort,
        )

    @property
    def is_held_out(self) -> bool:
        """Whether no training run may see it: decided by what is asked and in what setting, not by what came before."""
        last = [message.content for message in self.messages if message.role is not Role.ASSISTANT][-1]
        told = [message.content for message in self.messages if message.role in (Role.SYSTEM, Role.DEVELOPER)]
        text = json.dumps([told, last, [tool.name for tool in self.tools]])
        return zlib.crc32(text.encode()) % 100 < _HELD_OUT_PERCENT

    def after(self, earlier: tuple[ChatMessage, ...]) -> Dialogue:
        """Return the same with other exchanges before the first question."""
        told = [message for message in self.messages if message.role in (Role.SYSTEM, Role.DEVELOPER)]
        rest = [message for message in self.messages if message not in told]
        return replace(self, messages=(*told, *earlier, *rest))


def user(text: str) -> ChatMessage:
    """Return a user's message."""
    return ChatMessage(Role.USER, text)


def assistant(text: str) -> ChatMessage:
    """Return an earlier answer."""
    return ChatMessage(Role.ASSISTANT, text)


def developer(text: str) -> ChatMessage:
    """Return instructions."""
    return ChatMessage(Role.DEVELOPER, text)


def json_text(value: Any) -> str:  # noqa: ANN401 (any JSON value)
    """Return compact JSON, as the model is to write it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# --- tokens ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Example:
    """A dialogue's tokens, and which of them the model has to predict."""

    tokens: list[int]
    is_target: list[bool]


def example_of(dialogue: Dialogue) -> Example:
    """Return what to learn from a dialogue: its answer, the texts of earlier answers, and earlier calls."""
    prompt = render_prompt(dialogue.request)
    answer = answer_tokens(dialogue)
    return Example(prompt + answer, [*_earlier_answers(prompt), *[True] * len(answer)])


def answer_tokens(dialogue: Dialogue) -> list[int]:
    """Return the answer's tokens as they are generated, after `<|start|>assistant`, up to the token that ends it."""
    analysis = [CHANNEL, *_encode("analysis"), MESSAGE, *_encode(dialogue.thoughts.at(dialogue.effort)), END]
    opening = [*analysis, START, *_encode("assistant"), CHANNEL]
    if isinstance(dialogue.answer, str):
        return [*opening, *_encode("final"), MESSAGE, *_encode(dialogue.answer), RETURN]
    header = _encode(f"commentary to={NAMESPACE}{dialogue.answer.name} ")
    arguments = _encode(json_text(dialogue.answer.arguments))
    return [*opening, *header, CONSTRAIN, *_encode("json"), MESSAGE, *arguments, CALL]


def _earlier_answers(prompt: list[int]) -> Iterator[bool]:
    """Say of each prompt token whether it is of an earlier final answer's text, or of a call from its recipient on."""
    openings = ([CHANNEL, *_encode("final"), MESSAGE], [CHANNEL, *_encode("commentary to")])
    inside = False
    for place, token in enumerate(prompt):
        inside = inside and token != END
        yield inside
        inside = token != CALL and (inside or any(_ends_with(prompt, place, opening) for opening in openings))


def _ends_with(tokens: list[int], last: int, wanted: list[int]) -> bool:
    return tokens[last] == wanted[-1] and tokens[last + 1 - len(wanted) : last + 1] == wanted


def _encode(text: str) -> list[int]:
    ids: list[int] = encoding().encode(text, disallowed_special=())
    return ids

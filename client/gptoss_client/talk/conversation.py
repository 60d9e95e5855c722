"""A conversation as the OpenAI API takes it, turn by turn.

Stage: `gptoss chat` and `gptoss ask`, before 1 route.
Owns: the messages, what a request says besides them, what becomes of a turn that has no answer.
Does not know: how an answer is fetched or shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

from gptoss_backend.contract import CallSyntax, ToolCall
from gptoss_backend.model_names import MODEL_ALIAS
from gptoss_client.answer import Answer

Message: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Choices:
    """What each request says besides its messages. None: the server's own."""

    model: str = MODEL_ALIAS
    profile: str | None = None
    reasoning_effort: str | None = None
    max_tokens: int | None = None
    response_format: dict[str, Any] | None = None
    tools: Sequence[dict[str, Any]] | None = None

    def body(self, messages: Sequence[Message]) -> dict[str, Any]:
        """Return the request."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        return {**said, "messages": list(messages)}


@dataclass(slots=True)
class Conversation:
    """What was said so far, and how to go on."""

    choices: Choices = field(default_factory=Choices)
    system: str | None = None
    turns: list[list[Message]] = field(default_factory=list)
    """Each: the user's message and all that followed it."""
    unanswered: str | None = None
    """The question of a turn that was taken back."""

    def ask(self, question: str) -> None:
        """Begin a turn."""
        self.unanswered = None
        self.turns.append([{"role": "user", "content": question}])

    def request(self) -> dict[str, Any]:
        """Return the request for what comes next."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return self.choices.body([*system, *(message for turn in self.turns for message in turn)])

    def answered(self, answer: Answer) -> None:
        """Take an answer into the turn, calls and reasoning included: after a call the model goes on from there."""
        message: Message = {"role": "assistant", "content": answer.content or None}
        if answer.tool_calls:
            if answer.reasoning:
                message["reasoning"] = answer.reasoning
            message["tool_calls"] = [_sent(call) for call in answer.tool_calls]
        self.turns[-1].append(message)

    def tool_answered(self, call_id: str, result: str) -> None:
        """Take a tool's result into the turn."""
        self.turns[-1].append({"role": "tool", "tool_call_id": call_id, "content": result})

    def take_back(self) -> str | None:
        """Drop the last turn and return its question, or that of the turn dropped before; None where there is none."""
        if self.unanswered is None and self.turns:
            self.unanswered = self.turns.pop()[0]["content"]
        return self.unanswered

    def choose(self, **choices: Any) -> None:  # noqa: ANN401 (the fields of Choices)
        """Replace some of the choices."""
        self.choices = replace(self.choices, **choices)

    def forget(self) -> None:
        """Begin anew, with the same choices and system message."""
        self.turns.clear()
        self.unanswered = None


def _sent(call: ToolCall) -> Message:
    if call.syntax is CallSyntax.JSON:
        return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
    return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}

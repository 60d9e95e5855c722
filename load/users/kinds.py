"""The kinds of people, and how often each comes.

Stage: before 1 route and behind 7 SSE.
Owns: what each kind does with a conversation, and what it takes for a wrong answer.
Does not know: how a chat is held or measured (person), what is asked (prompts).
"""

from __future__ import annotations

import json
from typing import Any, Final

from locust.env import Environment

from gptoss_backend.contract import ChatMessage, ChatRequest, Role, SamplingParams
from load.answer import AnswerReader, CalledTool, ChatError
from load.ensemble_client import EnsembleClient, ensemble_of
from load.prompts import BERTH_FORM, TIDE_TABLE, TIDE_TOOL
from load.users.person import ChatPerson, Person


class ShortChat(ChatPerson):
    """One question, one answer."""

    kind = "short chat"
    weight = 5

    def talk(self) -> None:
        """Ask a question that stands alone."""
        self.ask([_user(self.prompts.question())])


class Conversation(ChatPerson):
    """Several turns; each sends all that was said before, so its prompt begins with the last one's."""

    kind = "conversation"
    weight = 3
    num_turns: Final = 4

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._messages: list[dict[str, Any]] = []

    def talk(self) -> None:
        """Say the next thing; begin anew after the last turn or a failure."""
        self._messages.append(_user(self.prompts.follow_up() if self._messages else self.prompts.opening()))
        answer = self.ask(self._messages)
        if answer is None or len(self._messages) >= 2 * self.num_turns - 1:
            self._messages = []
        else:
            self._messages.append({"role": "assistant", "content": answer.content})


class Document(ChatPerson):
    """A long report and a question about it."""

    kind = "document"
    weight = 2

    def talk(self) -> None:
        """Ask about a report."""
        self.ask([_user(self.prompts.document_question())])


class ToolCaller(ChatPerson):
    """A program whose model must look something up, and then answers with what was found."""

    kind = "tool calls"
    weight = 1

    def talk(self) -> None:
        """Demand a call, and give its result back."""
        messages = [_user(self.prompts.question())]
        answer = self.ask(messages, tools=[TIDE_TOOL], tool_choice="required", check=_check_calls)
        if answer is not None and answer.tool_calls and answer.finish_reason != "length":
            messages.append({"role": "assistant", "tool_calls": [_as_sent(call) for call in answer.tool_calls]})
            messages += [{"role": "tool", "tool_call_id": call.id, "content": TIDE_TABLE} for call in answer.tool_calls]
            self.ask(messages, tools=[TIDE_TOOL])


class Structured(ChatPerson):
    """A program that reads the answer as JSON of its own form."""

    kind = "structured"
    weight = 1

    def talk(self) -> None:
        """Ask for a filled-in form."""
        self.ask([_user(self.prompts.question())], response_format=BERTH_FORM, check=_check_form)


class Impatient(ChatPerson):
    """Closes the connection in the middle of the answer."""

    kind = "impatient"
    weight = 1

    def talk(self) -> None:
        """Ask a question and leave."""
        self.ask([_user(self.prompts.question())], leave_after_deltas=self.prompts.patience_deltas())


class EnsembleCaller(Person):
    """A program that speaks to Triton directly. Comes only where --triton-grpc says where that is."""

    kind = "ensemble (gRPC)"
    weight = 1

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._client = EnsembleClient(self.options.triton_grpc or "", ensemble_of(self.options.model or ""))

    def on_stop(self) -> None:
        """Close the channel."""
        self._client.close()

    def talk(self) -> None:
        """Ask the ensemble a question."""
        question = ChatMessage(role=Role.USER, content=self.prompts.question())
        request = ChatRequest(messages=(question,), sampling=SamplingParams(max_tokens=self.options.max_tokens))
        chat = self._client.chat()

        def hold() -> bool:
            chat.run(request)
            return True

        self.measure(chat, hold)


def _user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _as_sent(call: CalledTool) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _check_calls(answer: AnswerReader) -> None:
    if answer.finish_reason != "length" and not answer.tool_calls:
        raise ChatError("no tool was called where one had to be")


def _check_form(answer: AnswerReader) -> None:
    if answer.finish_reason == "length":
        return
    try:
        json.loads(answer.content)
    except ValueError:
        raise ChatError("a structured answer is not JSON") from None

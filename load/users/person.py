"""A simulated person: waits, asks, and has the answer measured.

Stage: before 1 route and behind 7 SSE.
Owns: when a person asks next, and what locust and the run are told of a chat.
Does not know: what is asked (kinds), the format of streams (answer), what is made of the records (report).

Each chat is reported to locust under its kind of user: `TTFT`, `inter-token` (a chat's mean), `chat` (the whole answer,
its length in tokens) or, where an impatient user closed the connection, `left early`. Failed chats fail `chat`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from locust import User, task
from locust.env import Environment

from load.answer import AnswerReader, AnswerTimes, ChatError
from load.chat_client import ChatClient
from load.prompts import PromptBook
from load.records import ChatRecord, Outcome
from load.users.options import Options
from load.users.run import RUN

AnswerCheck = Callable[[AnswerReader], None]
"""Raises ChatError where the answer is not what was asked for."""


class MeasuredChat(Protocol):
    """A chat on either road: over HTTP, or with the ensemble."""

    @property
    def age_s(self) -> float:
        """Time since the request was sent."""

    @property
    def answer(self) -> AnswerTimes:
        """What is known of the answer so far."""


class Person(User):
    """Somebody who asks, reads the answer as it streams, thinks, asks again. Begins by thinking."""

    abstract = True
    kind: ClassVar[str]

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.options = Options.of(environment)
        worker = getattr(environment.runner, "worker_index", 0)
        self.prompts = PromptBook(
            f"{self.options.seed}.{worker}.{next(RUN.user_numbers)}",
            repeat_share=self.options.repeat_share,
            document_words=self.options.document_words,
        )
        self._due_s: float | None = None

    def wait_time(self) -> float:
        """How long until the next message, as locust asks for it; waits for one to be due where they come by a rate."""
        if RUN.arrivals is not None:
            self._due_s = RUN.arrivals.next()
            return 0.0
        think_s = self.prompts.think_s(self.options.think_s)
        self._due_s = time.time() + think_s
        return think_s

    @task
    def come(self) -> None:
        """Do what this kind of user does, once it is due."""
        # locust's kill and the end of a wait may fall together: whoever wakes up then begins nothing
        if self._due_s is not None and not RUN.is_over:
            self.talk()

    def talk(self) -> None:
        """Send one message, and what follows from its answer."""
        raise NotImplementedError

    def measure(self, chat: MeasuredChat, hold: Callable[[], bool]) -> bool:
        """Hold a chat and report it. Return whether it was answered to its end.

        hold: blocks until the chat is over and returns whether the user stayed; raises ChatError where it fails.
        """
        began_s, self._due_s = self._due_s or time.time(), None
        late_s = max(0.0, time.time() - began_s)
        outcome, fault = Outcome.CUT_OFF, None
        try:
            outcome = Outcome.ANSWERED if hold() else Outcome.LEFT
        except ChatError as error:
            outcome, fault = Outcome.FAILED, error
        finally:  # also where locust, out of patience at the run's end, kills the greenlet
            self._report(_record(self.kind, outcome, chat, began_s, late_s, fault), fault)
        return outcome is Outcome.ANSWERED

    def _report(self, record: ChatRecord, fault: ChatError | None) -> None:
        RUN.records.append(record)
        if record.outcome == Outcome.CUT_OFF:
            return
        if record.ttft_s is not None:
            self._fire("TTFT", record.ttft_s)
        if record.inter_token_s is not None:
            self._fire("inter-token", record.inter_token_s)
        name = "left early" if record.outcome == Outcome.LEFT else "chat"
        self._fire(name, record.e2e_s, record.num_tokens, fault)

    def _fire(self, name: str, time_s: float, num_tokens: int = 0, fault: ChatError | None = None) -> None:
        self.environment.events.request.fire(
            request_type=self.kind,
            name=name,
            response_time=time_s * 1000.0,
            response_length=num_tokens,
            exception=fault,
            context={},
        )


class ChatPerson(Person):
    """A person with one chat window on the OpenAI API."""

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._client = ChatClient(str(environment.host), api_key=self.options.api_key)
        self._model = self.options.model

    def on_stop(self) -> None:
        """Close the window."""
        self._client.close()

    def ask(
        self,
        messages: list[dict[str, Any]],
        *,
        leave_after_deltas: int | None = None,
        check: AnswerCheck | None = None,
        **more: object,
    ) -> AnswerReader | None:
        """Hold one chat and report it. Return the whole answer; None where it failed or was left.

        check: what an answer must be, else the chat counts as failed. more: further fields of the request.
        """
        chat = self._client.chat()

        def hold() -> bool:
            stayed = chat.run(self._request(messages) | more, leave_after_deltas=leave_after_deltas)
            if stayed and check is not None:
                check(chat.answer)
            return stayed

        return chat.answer if self.measure(chat, hold) else None

    def _request(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        self._model = self._model or self._client.first_model()
        return {
            "model": self._model,
            "messages": messages,
            "max_tokens": self.options.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


def _record(
    kind: str, outcome: Outcome, chat: MeasuredChat, began_s: float, late_s: float, fault: ChatError | None
) -> ChatRecord:
    answer = chat.answer
    return ChatRecord(
        kind,
        outcome.value,
        began_s,
        late_s + chat.age_s,
        None if answer.ttft_s is None else late_s + answer.ttft_s,
        # of whole answers only: how many tokens one had that was left is not known, a delta may hold several
        answer.inter_token_s if outcome is Outcome.ANSWERED else None,
        answer.num_tokens,
        "" if fault is None else str(fault)[:200],
    )

"""One turn: a question, the answer as it streams, the tools it calls, and the answer to what they say.

Stage: `gptoss chat`.
Owns: when a turn is over.
Does not know: what is typed, how parts look.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any, Final

from gptoss_backend.contract import ToolCall
from gptoss_client.answer import Answer, AnswerPart, Ended
from gptoss_client.talk.conversation import Conversation
from gptoss_client.talk.tools import run_tool
from gptoss_client.talk.view import AnswerView, printable

_MAX_ANSWERS: Final = 8
"""In one turn: a model may call tools for ever."""

StreamChat = Callable[[dict[str, Any]], Generator[AnswerPart, None, None]]


def take_turn(
    conversation: Conversation, stream: StreamChat, new_view: Callable[[], AnswerView], note: Callable[[str], None]
) -> None:
    """Fetch and show the answer to the conversation's last question; changes it in place.

    note: shows a line beside the answer. Raises what `stream` raises, with the answer as far as it came shown.
    """
    for _ in range(_MAX_ANSWERS):
        view, answer = new_view(), Answer()
        with contextlib.closing(stream(conversation.request())) as parts:
            try:
                for part in parts:
                    answer.add(part)
                    view.show(part)
            finally:
                view.end()
        conversation.answered(answer)
        note(view.figures(answer.ended or Ended("stop")))
        if not answer.tool_calls:
            return
        for call in answer.tool_calls:
            _run(call, conversation, note)
    note(f"stopped after {_MAX_ANSWERS} answers that all call tools")


def _run(call: ToolCall, conversation: Conversation, note: Callable[[str], None]) -> None:
    note(printable(f"→ {call.name} {call.arguments}"))
    result = run_tool(call.name, call.arguments)
    note(printable(f"← {result}"))
    conversation.tool_answered(call.id, result)

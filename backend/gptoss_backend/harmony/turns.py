"""The turns of a chat: the user's and the assistant's messages, calls of tools and their results, later instructions.

Stage: 3 prompt.
Owns: each message's role, channel and recipient; which reasoning the model sees again; which instructions are turns.
Does not know: what comes before the turns (prompt.py), how the answer is read back (channels.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from gptoss_backend.contract import CallSyntax, ChatMessage, Role, ToolCall
from gptoss_backend.harmony.builtin_tools import EVERY_RECIPIENT
from gptoss_backend.harmony.custom_tools import written
from gptoss_backend.harmony.errors import PromptError
from gptoss_backend.harmony.header import NAMESPACE
from gptoss_backend.harmony.message_ids import header_ids, message_ids
from gptoss_backend.harmony.tool_names import checked_name
from gptoss_backend.harmony.vocabulary import CALL, START

INSTRUCTIONS: Final = "# Instructions\n\n"
"""Begins them in a developer message."""


def num_leading(messages: Sequence[ChatMessage]) -> int:
    """Return how many messages come before the first that is no instruction: these are no turns."""
    return next((at for at, message in enumerate(messages) if not message.role.instructs), len(messages))


def turns(messages: Sequence[ChatMessage]) -> Iterator[list[int]]:
    """Yield the user's, the assistant's and the tools' messages, and the instructions among them in their places."""
    first = num_leading(messages)
    last_final = max((at for at, message in enumerate(messages) if _is_final(message)), default=-1)
    called: dict[str, ToolCall] = {}
    for position, message in enumerate(messages):
        where, keep = f"messages[{position}]", position > last_final
        check_fields(message, where)
        match message.role:
            case Role.USER:
                yield message_ids("user", _content(message, where))
            case Role.ASSISTANT:
                yield from _assistant(message, where, keep_reasoning=keep)
                called.update((call.id, call) for call in message.tool_calls)
            case Role.TOOL:
                yield from _tool_result(message, where, called, keep_reasoning=keep)
            case Role.SYSTEM | Role.DEVELOPER if message.content and position >= first:
                yield message_ids("developer", INSTRUCTIONS + message.content)


def _is_final(message: ChatMessage) -> bool:
    return message.role is Role.ASSISTANT and bool(message.content) and channel_of(message) == "final"


def channel_of(message: ChatMessage) -> str:
    """Return that of the message's content."""
    phase = message.phase or ("commentary" if message.tool_calls else "final_answer")
    return "commentary" if phase == "commentary" else "final"


def _assistant(message: ChatMessage, where: str, *, keep_reasoning: bool) -> Iterator[list[int]]:
    """Yield analysis, then the final text, or the preamble and the calls it announces.

    Reasoning is dropped once a final answer has followed it; between tool calls the model needs it to go on. So are
    calls of built-in tools and their results, which are analysis, too.
    """
    if message.reasoning and keep_reasoning:
        yield message_ids("assistant<|channel|>analysis", message.reasoning)
    if message.content:
        yield message_ids(f"assistant<|channel|>{channel_of(message)}", message.content)
    for position, call in enumerate(message.tool_calls):
        name = _checked_call(call, f"{where}.tool_calls[{position}]")
        if not call.is_builtin:
            header = f"assistant<|channel|>commentary to={NAMESPACE}{name} {_type(call)}"
            yield message_ids(header, written(call), end=CALL)
        elif keep_reasoning:
            # in the words of the models, whose own tokens a next prompt repeats then
            yield message_ids(f"assistant<|channel|>analysis to={name} code", call.arguments, end=CALL)


def _type(call: ToolCall) -> str:
    """Return what a call's header says of its text; these models write `code` before texts that are not JSON."""
    return "code" if call.syntax is CallSyntax.PLAIN else "<|constrain|>json"


def _tool_result(
    message: ChatMessage, where: str, called: dict[str, ToolCall], *, keep_reasoning: bool
) -> Iterator[list[int]]:
    if message.tool_call_id is None:
        raise PromptError(f"{where}: a tool message needs the tool_call_id of the call it answers.")
    call = called.get(message.tool_call_id)
    if call is None:
        raise PromptError(f"{where}: no earlier message calls a tool under the tool_call_id {message.tool_call_id!r}.")
    if not call.is_builtin:
        yield message_ids(f"{NAMESPACE}{call.name} to=assistant<|channel|>commentary", _content(message, where))
    elif keep_reasoning:
        yield message_ids(f"{call.name} to=assistant<|channel|>analysis", _content(message, where))


def refusal_of_call(tool: str) -> list[int]:
    """Return what follows a call to a tool that was not offered: its result, and the beginning of the next message.

    tool: as the model names it, of the letters of names.
    """
    told = f"There is no tool {tool} here: answer without it."
    result = message_ids(f"{tool} to=assistant<|channel|>commentary", told)
    return [*result, START, *header_ids("assistant")]


# --- checks -----------------------------------------------------------------------------------------------------------


def check_fields(message: ChatMessage, where: str) -> None:
    """Raise PromptError where a message holds what only one of another role may."""
    if message.role is not Role.ASSISTANT and (message.tool_calls or message.reasoning or message.phase):
        held = "tool_calls, reasoning or a phase"
        raise PromptError(f"{where}: only an assistant message may hold {held}, not one of role {message.role}.")
    if message.role is not Role.TOOL and message.tool_call_id is not None:
        raise PromptError(f"{where}: only a tool message may hold a tool_call_id, not one of role {message.role}.")


def _content(message: ChatMessage, where: str) -> str:
    if message.content is None:
        raise PromptError(f"{where}: a message of role {message.role} needs content.")
    return message.content


def _checked_call(call: ToolCall, where: str) -> str:
    if call.is_builtin and call.name not in EVERY_RECIPIENT:
        raise PromptError(f"{where}: {call.name!r} is no built-in tool.")
    return checked_name(call.name, where)

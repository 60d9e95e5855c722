"""Items → the messages of a chat.

Stage: 2 validate → 3 prompt.
Owns: which items make one message; that every call has its output and every output its call.
Does not know: where the items come from; how messages are rendered (harmony/turns.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from gptoss_adapter.errors import invalid_value
from gptoss_adapter.parts import returned, said
from gptoss_adapter.responses.server_tools.hosted_conversation import call_of, result_of
from gptoss_adapter.responses.server_tools.mcp_conversation import as_functions
from gptoss_adapter.responses.tools import name_for_model
from gptoss_adapter.schemas.compaction import CompactionItem
from gptoss_adapter.schemas.hosted_items import HostedItem
from gptoss_adapter.schemas.response_items import (
    CallItem,
    CallOutputItem,
    FunctionCallItem,
    Item,
    MessageItem,
    ReasoningItem,
)
from gptoss_backend.contract import CallSyntax, ChatMessage, Phase, Role, ToolCall
from gptoss_backend.harmony.tool_names import TOOL_NAME

BETWEEN: Final = "\n\n"
"""Keeps apart the pieces of reasoning that become one text."""
_SUMMED_UP: Final = "Of the conversation up to here, to save room, only what I wrote is left, and your own summary:\n\n"


def chat_messages(items: Sequence[Item], plain: Collection[str] = ()) -> tuple[ChatMessage, ...]:
    """Return the conversation as messages. Raises InvalidRequestError for calls and outputs that do not match.

    plain: the custom tools whose input has a grammar, by the names that the model knows.
    """
    items = _without_cut_calls(as_functions(items))
    _check_calls(items)
    messages: list[ChatMessage] = []
    turn: list[Item] = []
    for item in items:
        if _is_assistants(item):
            turn.append(item)
            continue
        if isinstance(item, HostedItem):
            turn.append(item)  # and its own result, which follows
        messages += _assistant_turn(turn, plain)
        turn.clear()
        messages.append(_message(item))
    return (*messages, *_assistant_turn(turn, plain))


def _is_assistants(item: Item) -> bool:
    if isinstance(item, MessageItem):
        return item.role == "assistant"
    return isinstance(item, ReasoningItem | CallItem)


def _message(item: Item) -> ChatMessage:
    if isinstance(item, HostedItem):
        return ChatMessage(Role.TOOL, result_of(item), tool_call_id=item.id)
    if isinstance(item, CallOutputItem):
        return ChatMessage(Role.TOOL, returned(item.output), tool_call_id=item.call_id)
    if isinstance(item, CompactionItem):
        return ChatMessage(Role.USER, _SUMMED_UP + item.summary)  # no instruction: it may repeat what anybody has said
    assert isinstance(item, MessageItem)  # noqa: S101 (the others are the assistant's)
    return ChatMessage(Role(item.role), said(item.content))


# --- the assistant's turn -------------------------------------------------------------------------------------------


def _assistant_turn(items: Sequence[Item], plain: Collection[str]) -> Iterator[ChatMessage]:
    """Yield what the assistant said in one go, in its order: so the next prompt begins with the tokens it wrote.

    What is said before a call is no final answer, unless it says that it is one.
    """
    num_calling = max((at for at, item in enumerate(items, 1) if isinstance(item, CallItem | HostedItem)), default=0)
    begun = 0
    for run in _runs(items):
        yield _message_of(run, plain, is_before_call=begun < num_calling)
        begun += len(run)


def _runs(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Yield the items by messages: reasoning, a text and calls, in this order, as far as they are there."""
    run: list[Item] = []
    for item in items:
        if run and not _goes_on(run[-1], item):
            yield run
            run = []
        run.append(item)
    if run:
        yield run


def _goes_on(last: Item, item: Item) -> bool:
    """Say whether the item may stand behind the other in one message."""
    if isinstance(last, ReasoningItem):
        return not isinstance(item, ReasoningItem)
    return isinstance(item, CallItem | HostedItem)


def _message_of(run: Sequence[Item], plain: Collection[str], *, is_before_call: bool) -> ChatMessage:
    """is_before_call: the last call of the turn is of this run, or comes later."""
    reasoning = next((item for item in run if isinstance(item, ReasoningItem)), None)
    text = next((item for item in run if isinstance(item, MessageItem)), None)
    unsaid: Phase | None = "commentary" if is_before_call else None
    return ChatMessage(
        Role.ASSISTANT,
        content=said(text.content) or None if text else None,
        reasoning=BETWEEN.join(reasoning.pieces) or None if reasoning else None,
        tool_calls=tuple(_tool_call(item, plain) for item in run if isinstance(item, CallItem | HostedItem)),
        phase=(text.phase or unsaid) if text else None,
    )


def _tool_call(item: CallItem | HostedItem, plain: Collection[str]) -> ToolCall:
    if isinstance(item, HostedItem):
        return call_of(item)
    name = name_for_model(item.name, item.namespace)
    if isinstance(item, FunctionCallItem):
        return ToolCall(item.call_id, name, item.arguments)
    return ToolCall(item.call_id, name, item.input, CallSyntax.PLAIN if name in plain else CallSyntax.QUOTED)


# --- calls and outputs ----------------------------------------------------------------------------------------------


def _without_cut_calls(items: Sequence[Item]) -> list[Item]:
    """Return the items without calls that were cut, and which therefore nobody has run."""
    answered = {item.call_id for item in items if isinstance(item, CallOutputItem)}

    def was_cut(item: Item) -> bool:
        if isinstance(item, CallItem):
            return item.status == "incomplete" and item.call_id not in answered
        return isinstance(item, HostedItem) and result_of(item) is None

    return [item for item in items if not was_cut(item)]


def _check_calls(items: Sequence[Item]) -> None:
    """Raise InvalidRequestError unless names are names, every output follows its call and every call has an output."""
    open_calls: dict[tuple[str, str], None] = {}
    answered: set[tuple[str, str]] = set()
    for item in items:
        if isinstance(item, CallItem):
            kind, name = _kind(item), name_for_model(item.name, item.namespace)
            if not TOOL_NAME.fullmatch(name):
                message = f"The {kind} {item.call_id} names {name!r}, which no tool can be named."
                raise invalid_value(message, "input")
            open_calls[kind, item.call_id] = None
        elif isinstance(item, CallOutputItem):
            call = (_kind(item), item.call_id)
            if call not in open_calls and call not in answered:
                message = f"No tool call found for {call[0]} output with call_id {item.call_id}."
                raise invalid_value(message, "input")
            open_calls.pop(call, None)
            answered.add(call)
    for kind, call_id in open_calls:
        raise invalid_value(f"No tool output found for {kind} {call_id}.", "input")


def _kind(item: CallItem | CallOutputItem) -> str:
    """Return the kind of call in words: an output answers a call of its own kind."""
    return item.type.removesuffix("_output").replace("_", " ")

"""Blocks → the messages of a chat, by way of the items of `/v1/responses`, which are the same things by other names.

Stage: 2 validate → 3 prompt.
Owns: what each block says to the model.
Does not know: which items make one message, which calls match (responses/conversation.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from gptoss_adapter.errors import InvalidRequestError
from gptoss_adapter.messages.thinking import thinking_behind
from gptoss_adapter.parts import returned, said
from gptoss_adapter.responses.conversation import chat_messages
from gptoss_adapter.schemas.message_blocks import TextBlock, TextContent, ThinkingBlock, ToolResultBlock, ToolUseBlock
from gptoss_adapter.schemas.messages import ConversationFields, Message
from gptoss_adapter.schemas.response_items import (
    FunctionCallItem,
    FunctionCallOutputItem,
    Item,
    MessageItem,
    ReasoningItem,
    ReasoningText,
)
from gptoss_backend.contract import ChatMessage, Role

_BILLING: Final = re.compile(r"\Ax-anthropic-billing-header:[^\n]*\n?")
"""Begins Claude Code's `system` and is for Anthropic's bill. It changes from request to request, so nothing behind it
would be found in the KV cache."""


def conversation(body: ConversationFields) -> tuple[ChatMessage, ...]:
    """Return the conversation with its instructions. Raises InvalidRequestError, for calls without results too."""
    items = [item for at, message in enumerate(body.messages) for item in _items(message, f"messages[{at}]")]
    try:
        messages = chat_messages(items)
    except InvalidRequestError as error:
        if error.param != "input":
            raise
        raise InvalidRequestError(f"messages: {error.message}", param="messages", code=error.code) from None
    told = _instructions(body.system) if body.system is not None else ""
    return (ChatMessage(Role.SYSTEM, told), *messages) if told else messages


def _instructions(system: TextContent) -> str:
    blocks = [system] if isinstance(system, str) else [block.text for block in system]
    return "".join(_BILLING.sub("", block) for block in blocks)


def _items(message: Message, where: str) -> Iterator[Item]:
    """Yield what the message's blocks say. Neighbouring texts are one."""
    blocks = message.content
    if isinstance(blocks, str):
        yield MessageItem(role=message.role, content=blocks)
        return
    for is_text, group in groupby(enumerate(blocks), key=lambda numbered: isinstance(numbered[1], TextBlock)):
        if is_text:
            texts = [block for _, block in group if isinstance(block, TextBlock)]
            yield MessageItem(role=message.role, content=said(texts))
            continue
        for at, block in group:
            yield from _item(block, f"{where}.content[{at}]")


def _item(block: object, where: str) -> Iterator[Item]:
    match block:
        case ThinkingBlock(thinking=text, signature=signature):
            thought = ReasoningText(type="reasoning_text", text=thinking_behind(text, signature, where))
            yield ReasoningItem(type="reasoning", summary=[], content=[thought])
        case ToolUseBlock():
            arguments = json.dumps(block.input, ensure_ascii=False, separators=(",", ":"))
            yield FunctionCallItem(type="function_call", call_id=block.id, name=block.name, arguments=arguments)
        case ToolResultBlock():
            yield FunctionCallOutputItem(type="function_call_output", call_id=block.tool_use_id, output=_result(block))


def _result(block: ToolResultBlock) -> str:
    text = returned(block.content or "")
    return f"Error: {text}" if block.is_error else text


def is_begun(messages: Sequence[ChatMessage]) -> bool:
    """Say whether a conversation ends with an answer that was begun; an empty one is none."""
    last = messages[-1] if messages else None
    return last is not None and last.role is Role.ASSISTANT and bool(last.content or last.reasoning)

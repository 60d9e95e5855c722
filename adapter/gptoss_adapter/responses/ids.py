"""Ids of responses, conversations and items.

Stage: 2 validate and 7 SSE.
Owns: how ids look: OpenAI's prefixes, and enough chance that nobody guesses one.
Does not know: what is kept under them.
"""

from __future__ import annotations

import re
import uuid
from typing import Final

from gptoss_adapter.schemas.compaction import CompactionItem
from gptoss_adapter.schemas.hosted_items import CodeInterpreterCallItem, WebSearchCallItem
from gptoss_adapter.schemas.mcp_items import (
    McpApprovalRequestItem,
    McpApprovalResponseItem,
    McpCallItem,
    McpListToolsItem,
)
from gptoss_adapter.schemas.response_items import (
    CustomToolCallItem,
    CustomToolCallOutputItem,
    FunctionCallItem,
    FunctionCallOutputItem,
    Item,
    MessageItem,
    ReasoningItem,
)

_PREFIXES: Final[dict[type[Item], str]] = {
    MessageItem: "msg",
    ReasoningItem: "rs",
    CompactionItem: "cmp",
    FunctionCallItem: "fc",
    FunctionCallOutputItem: "fco",
    CustomToolCallItem: "ctc",
    CustomToolCallOutputItem: "ctco",
    McpCallItem: "mcp",
    McpListToolsItem: "mcpl",
    McpApprovalRequestItem: "mcpr",
    McpApprovalResponseItem: "mcpa",
    WebSearchCallItem: "ws",
    CodeInterpreterCallItem: "ci",
}
_CONVERSATION: Final = "conv_"
_MADE_HERE: Final = re.compile(rf"(?:{'|'.join(_PREFIXES.values())})_[0-9a-f]{{32}}")


def new_response_id() -> str:
    """Return an id for a response."""
    return f"resp_{uuid.uuid4().hex}"


def new_conversation_id() -> str:
    """Return an id for a conversation."""
    return f"{_CONVERSATION}{uuid.uuid4().hex}"


def is_conversation_id(some_id: str) -> bool:
    """Say whether an id that was made here is a conversation's."""
    return some_id.startswith(_CONVERSATION)


def new_container_id() -> str:
    """Return an id for where code runs."""
    return f"cntr_{uuid.uuid4().hex}"


def new_item_id(kind: type[Item]) -> str:
    """Return an id for an item of that kind."""
    return f"{_PREFIXES[kind]}_{uuid.uuid4().hex}"


def is_unguessable(item_id: str) -> bool:
    """Say whether the id looks as those do that are made here. A client may give an item any other."""
    return _MADE_HERE.fullmatch(item_id) is not None

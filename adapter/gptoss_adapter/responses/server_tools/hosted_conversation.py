"""Items of OpenAI's own tools → calls of the model's built-in tools, and their results.

Stage: 2 validate → 3 prompt.
Owns: the call that an item stands for, also where a client brings the item of another server.
Does not know: messages (conversation.py), who has run the call.
"""

from __future__ import annotations

import json

from gptoss_adapter.responses.server_tools.mcp_conversation import NO_RESULT
from gptoss_adapter.schemas.hosted_items import (
    CodeInterpreterCallItem,
    CodeLogs,
    FindAction,
    HostedItem,
    OpenPageAction,
    SearchAction,
    SearchingAction,
    WebSearchCallItem,
)
from gptoss_adapter.schemas.unseen_parts import PICTURE
from gptoss_backend.contract import ToolCall
from gptoss_backend.harmony.builtin_tools import BROWSER_FIND, BROWSER_OPEN, BROWSER_SEARCH, PYTHON


def call_of(item: HostedItem) -> ToolCall:
    """Return the call, under the item's id."""
    if isinstance(item, CodeInterpreterCallItem):
        return ToolCall(item.id or "", PYTHON, item.code or "", is_builtin=True)
    arguments = item.arguments if item.arguments is not None else json.dumps(_arguments(item.action))
    return ToolCall(item.id or "", recipient_of(item.action), arguments, is_builtin=True)


def result_of(item: HostedItem) -> str | None:
    """Return what the model was told; None: the call was not run."""
    if isinstance(item, WebSearchCallItem):
        told = item.results
    elif item.outputs is None:
        told = None
    else:
        told = "\n".join(one.logs if isinstance(one, CodeLogs) else PICTURE for one in item.outputs)
    if told is None and item.status != "incomplete":
        return NO_RESULT
    return told


def recipient_of(action: SearchingAction) -> str:
    """Return whom the call was to."""
    match action:
        case SearchAction():
            return BROWSER_SEARCH
        case OpenPageAction():
            return BROWSER_OPEN
        case FindAction():
            return BROWSER_FIND


def _arguments(action: SearchingAction) -> dict[str, str]:
    match action:
        case SearchAction():
            return {"query": action.query or " ".join(action.queries or ())}
        case OpenPageAction():
            return {"id": action.url} if action.url else {}
        case FindAction():
            return {"pattern": action.pattern}

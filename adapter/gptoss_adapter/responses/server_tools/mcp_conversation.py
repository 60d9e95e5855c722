"""Items of tools that MCP servers run → calls and outputs, as if the client had run them.

Stage: 2 validate → 3 prompt.
Owns: what the model is told of a call that failed, that was refused or that nobody answered for.
Does not know: messages (conversation.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, get_args

from gptoss_adapter.errors import invalid_value
from gptoss_adapter.schemas.mcp_items import (
    McpApprovalRequestItem,
    McpApprovalResponseItem,
    McpCallError,
    McpCallItem,
    McpHttpError,
    McpItem,
    McpProtocolError,
    McpToolExecutionError,
)
from gptoss_adapter.schemas.response_items import FunctionCallItem, FunctionCallOutputItem, Item

_MCP_ITEMS: Final = get_args(McpItem)
_UNANSWERED: Final = "This call was not run: nobody has approved of it."
NO_RESULT: Final = "What came of this call is not known."


def as_functions(items: Sequence[Item]) -> Sequence[Item]:
    """Return the items, those of MCP servers as a function's call and output, or left out.

    Raises InvalidRequestError where something is approved that was not asked for.
    """
    if not any(isinstance(item, _MCP_ITEMS) for item in items):
        return items
    answers = _answers(items)
    pending = {request.id for request in _pending(items, answers)}
    run = _run(items)
    return [
        told
        for item in items
        if not (isinstance(item, McpApprovalRequestItem) and item.id in run | pending)
        for told in _told(item, answers)
    ]


def approved_calls(items: Sequence[Item]) -> list[McpApprovalRequestItem]:
    """Return the calls that were approved and are not run yet.

    Raises InvalidRequestError where something is approved that was not asked for.
    """
    if not any(isinstance(item, McpApprovalResponseItem) for item in items):
        return []
    return _pending(items, _answers(items))


def _answers(items: Sequence[Item]) -> dict[str, McpApprovalResponseItem]:
    """Return the last answer to each request."""
    asked: set[str | None] = set()
    answers: dict[str, McpApprovalResponseItem] = {}
    for item in items:
        if isinstance(item, McpApprovalRequestItem):
            asked.add(item.id)
        elif isinstance(item, McpApprovalResponseItem):
            if item.approval_request_id not in asked:
                message = f"No approval request found for approval_request_id {item.approval_request_id}."
                raise invalid_value(message, "input")
            answers[item.approval_request_id] = item
    return answers


def _run(items: Sequence[Item]) -> set[str | None]:
    """Return the requests whose calls were run."""
    return {item.approval_request_id for item in items if isinstance(item, McpCallItem) and not _was_left(item)}


def _was_left(call: McpCallItem) -> bool:
    """Say whether nobody has run it: its arguments were cut, or the response ended before."""
    return call.status == "incomplete" and call.output is None and call.error is None


def _pending(items: Sequence[Item], answers: dict[str, McpApprovalResponseItem]) -> list[McpApprovalRequestItem]:
    run = _run(items)
    return [
        item
        for item in items
        if isinstance(item, McpApprovalRequestItem)
        and item.id not in run
        and (answer := answers.get(item.id or "")) is not None
        and answer.approve
    ]


def _told(item: Item, answers: dict[str, McpApprovalResponseItem]) -> Iterator[Item]:
    match item:
        case McpCallItem():
            if not _was_left(item):
                yield from _as_function(item, _result(item))
        case McpApprovalRequestItem():
            answer = answers.get(item.id or "")
            yield from _as_function(item, _UNANSWERED if answer is None else _refusal(answer))
        case _ if not isinstance(item, _MCP_ITEMS):
            yield item


def _as_function(call: McpCallItem | McpApprovalRequestItem, result: str) -> Iterator[Item]:
    call_id = call.id or ""
    yield FunctionCallItem(
        type="function_call",
        call_id=call_id,
        name=call.name,
        namespace=call.server_label,
        arguments=call.arguments,
    )
    yield FunctionCallOutputItem(type="function_call_output", call_id=call_id, output=result)


def _result(call: McpCallItem) -> str:
    if call.error is not None:
        return words_of(call.error)
    return NO_RESULT if call.output is None else call.output


def words_of(error: McpCallError) -> str:
    """Return what the model is told of a call that failed."""
    match error:
        case McpToolExecutionError(content=[{"text": str(text)}]):
            return f"The tool failed: {text}"
        case McpToolExecutionError(content=content):
            return f"The tool failed: {content}"
        case McpProtocolError(message=message) | McpHttpError(message=message):
            return f"This call failed: {message}"


def _refusal(answer: McpApprovalResponseItem) -> str:
    reason = f" {answer.reason}" if answer.reason else ""
    return f"This call was not run: it was refused.{reason}"

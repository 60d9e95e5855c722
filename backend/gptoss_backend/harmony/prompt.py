"""Chat request → prompt token ids in the Harmony format.

Stage: 3 prompt.
Owns: each message's role, channel and recipient; which reasoning the model sees again; what a name may hold.
Does not know: Triton, sampling, how the answer is read back (channels.py).

The format is https://developers.openai.com/cookbook/articles/openai-harmony. oss-harmony renders the system message and
the function tools; the turns are put together here, token for token as it would, because it takes 4 ms for the markers
of 60 messages.

All text of a request is tokenised as ordinary text, so `<|end|>` typed by a user stays seven characters. Names are the
one thing that lands in a message's header, where white space would be structure: they are held to OpenAI's alphabet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

from openai_harmony import DeveloperContent, Message, ReasoningEffort, RenderOptions, SystemContent, ToolDescription
from openai_harmony import Role as HarmonyRole

from gptoss_backend.contract import (
    BuiltinTool,
    CallSyntax,
    ChatMessage,
    ChatRequest,
    CustomTool,
    FunctionTool,
    ResponseFormat,
    Role,
    Tool,
    ToolCall,
    ToolChoiceMode,
)
from gptoss_backend.harmony.builtin_tools import EVERY_RECIPIENT, namespace, offered_builtins
from gptoss_backend.harmony.custom_tools import told_description, told_parameters, written
from gptoss_backend.harmony.header import NAMESPACE
from gptoss_backend.harmony.parameters import shown_parameters
from gptoss_backend.harmony.runs import cut_long_runs, has_unbreakable_run
from gptoss_backend.harmony.vocabulary import CALL, END, MESSAGE, START, encoding

TOOL_NAME: Final = re.compile(r"[a-zA-Z0-9_.-]{1,128}")

_HEADER_MARKERS: Final = frozenset({"<|channel|>", "<|constrain|>"})
_SCHEMA_WITHOUT_FIELDS: Final = frozenset(
    {
        *("type", "properties", "required", "additionalProperties", "$defs", "definitions"),
        *("title", "description", "$schema", "$id", "$comment", "default", "examples"),
    }
)


class PromptError(ValueError):
    """A request that no prompt can be made of. The message is one sentence that names the part at fault."""


def render_prompt(request: ChatRequest) -> list[int]:
    """Return the prompt's token ids, ending in the header that the assistant's answer continues.

    Order: system (identity, date, effort, built-in tools, channels), developer (all system and developer messages in
    their order, then the request's tools, then the response format), then the turns. Equal requests give equal ids on
    every machine. Raises PromptError.
    """
    builtins = offered_builtins(request)
    ids = list(_system(request.reasoning_effort.name, request.date, builtins, bool(offered_tools(request))))
    ids += _developer(request)
    for turn in _turns(request.messages):
        ids += turn
    return [*ids, START, *_header("assistant")]


def offered_tools(request: ChatRequest) -> tuple[Tool, ...]:
    """Return the tools the model is told of."""
    return () if request.tool_choice.mode is ToolChoiceMode.NONE else request.tools


# --- system and developer -------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _system(effort: str, date: str | None, builtins: tuple[BuiltinTool, ...], has_tools: bool) -> tuple[int, ...]:
    content = SystemContent(reasoning_effort=ReasoningEffort[effort], conversation_start_date=date)
    for tool in builtins:
        if has_unbreakable_run(tool.description or ""):
            raise PromptError(
                f"The description of {tool.name!r} holds an overlong run of characters without a word end."
            )
        content = content.with_tools(namespace(tool))
    message = Message.from_role_and_content(HarmonyRole.SYSTEM, content)
    return tuple(encoding().render(message, RenderOptions(conversation_has_function_tools=has_tools)))


def _developer(request: ChatRequest) -> list[int]:
    """Return the developer message, or nothing where it would be empty."""
    told = [message.content for message in request.messages if message.role in (Role.SYSTEM, Role.DEVELOPER)]
    instructions = "\n\n".join(text for text in told if text)
    tools, response_format = offered_tools(request), request.response_format
    sections = [f"# Instructions\n\n{instructions}"] if instructions else []
    body: list[int] = []
    if tools:
        body = _encode("".join(f"{section}\n\n" for section in sections)) + _describe_tools(tools)
        sections = [""]  # what follows the tools is an empty line away
    if response_format is not None:
        sections.append(_describe_format(response_format))
    body += _encode("\n\n".join(sections))
    return [START, *_header("developer"), MESSAGE, *body, END] if body else []


def _describe_format(wanted: ResponseFormat) -> str:
    """Return the `# Response Formats` section: a schema under its name, below what is said of it."""
    schema = {"type": "object"} if wanted.schema is None else wanted.schema
    about = "".join(f"// {line}\n" for line in (wanted.description or "").splitlines())
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    return f"# Response Formats\n\n## {wanted.name}\n\n{about}{text}"


def _describe_tools(tools: Sequence[Tool]) -> list[int]:
    """Return the `# Tools` section: all tools as functions' TypeScript types."""
    described = [_describe_tool(tool, f"tools[{position}]") for position, tool in enumerate(tools)]
    try:
        return _render_tools(described)
    except ValueError:
        for position, description in enumerate(described):
            _check_renders(description, f"tools[{position}]")
        raise


def _render_tools(described: Sequence[ToolDescription]) -> list[int]:
    content = DeveloperContent().with_function_tools(described)
    ids: list[int] = encoding().render(Message.from_role_and_content(HarmonyRole.DEVELOPER, content))
    return ids[ids.index(MESSAGE) + 1 : -1]  # without header and <|end|>


def _check_renders(description: ToolDescription, where: str) -> None:
    try:
        _render_tools([description])
    except ValueError as error:
        raise PromptError(
            f"{where}: the parameters of {description.name!r} cannot be described to the model: "
            "they are nested too deeply or hold a number that JSON does not have."
        ) from error


def _describe_tool(tool: Tool, where: str) -> ToolDescription:
    name, description = _checked_name(tool.name, where), _description(tool)
    parameters = tool.parameters if isinstance(tool, FunctionTool) else None
    if has_unbreakable_run(description) or has_unbreakable_run(json.dumps(parameters, ensure_ascii=False)):
        raise PromptError(
            f"{where}: the description of {name!r} holds an overlong run of characters without a word end."
        )
    return ToolDescription.new(name, description, _parameters(tool))


def _description(tool: Tool) -> str:
    return told_description(tool) if isinstance(tool, CustomTool) else tool.description


def _parameters(tool: Tool) -> dict[str, Any] | None:
    """Return the schema as the library wants it; None, rendered `() => any`, for a function that takes nothing."""
    if isinstance(tool, CustomTool):
        return told_parameters(tool)
    return None if takes_nothing(tool) else shown_parameters(tool.parameters or {})


def takes_nothing(tool: FunctionTool) -> bool:
    """Say whether a function has no arguments, to the model as to the grammar: a map has, and what is required."""
    schema = tool.parameters or {}
    is_open = bool(schema.get("properties") or schema.get("required") or schema.get("additionalProperties"))
    return not is_open and schema.keys() <= _SCHEMA_WITHOUT_FIELDS


# --- turns ----------------------------------------------------------------------------------------------------------


def _turns(messages: Sequence[ChatMessage]) -> Iterator[list[int]]:
    """Yield the user's, the assistant's and the tools' messages."""
    last_final = max((at for at, message in enumerate(messages) if _is_final(message)), default=-1)
    called: dict[str, ToolCall] = {}
    for position, message in enumerate(messages):
        where, keep = f"messages[{position}]", position > last_final
        _check_fields(message, where)
        match message.role:
            case Role.USER:
                yield _message("user", _content(message, where))
            case Role.ASSISTANT:
                yield from _assistant(message, where, keep_reasoning=keep)
                called.update((call.id, call) for call in message.tool_calls)
            case Role.TOOL:
                yield from _tool_result(message, where, called, keep_reasoning=keep)


def _is_final(message: ChatMessage) -> bool:
    return message.role is Role.ASSISTANT and bool(message.content) and not message.tool_calls


def _assistant(message: ChatMessage, where: str, *, keep_reasoning: bool) -> Iterator[list[int]]:
    """Yield analysis, then the final text, or the preamble and the calls it announces.

    Reasoning is dropped once a final answer has followed it; between tool calls the model needs it to go on. So are
    calls of built-in tools and their results, which are analysis, too.
    """
    if message.reasoning and keep_reasoning:
        yield _message("assistant<|channel|>analysis", message.reasoning)
    if message.content:
        channel = "commentary" if message.tool_calls else "final"
        yield _message(f"assistant<|channel|>{channel}", message.content)
    for position, call in enumerate(message.tool_calls):
        name = _checked_call(call, f"{where}.tool_calls[{position}]")
        if not call.is_builtin:
            header = f"assistant<|channel|>commentary to={NAMESPACE}{name} {_type(call)}"
            yield _message(header, written(call), end=CALL)
        elif keep_reasoning:
            # in the words of the models, whose own tokens a next prompt repeats then
            yield _message(f"assistant<|channel|>analysis to={name} code", call.arguments, end=CALL)


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
        yield _message(f"{NAMESPACE}{call.name} to=assistant<|channel|>commentary", _content(message, where))
    elif keep_reasoning:
        yield _message(f"{call.name} to=assistant<|channel|>analysis", _content(message, where))


def refusal_of_call(tool: str) -> list[int]:
    """Return what follows a call to a tool that was not offered: its result, and the beginning of the next message.

    tool: as the model names it, of the letters of names.
    """
    result = _message(f"{tool} to=assistant<|channel|>commentary", f"There is no tool {tool} here: answer without it.")
    return [*result, START, *_header("assistant")]


def _message(header: str, text: str, *, end: int = END) -> list[int]:
    return [START, *_header(header), MESSAGE, *_encode(text), end]


@lru_cache(maxsize=1024)
def _header(text: str) -> tuple[int, ...]:
    """Tokenise our own words and checked names, the markers among them as markers."""
    return tuple(encoding().encode(text, allowed_special=_HEADER_MARKERS, disallowed_special=()))


def _encode(text: str) -> list[int]:
    """Tokenise text that is not ours: nothing in it becomes a special token."""
    ids: list[int] = []
    for part in cut_long_runs(text):
        ids += encoding().encode(part, disallowed_special=())
    return ids


# --- checks ---------------------------------------------------------------------------------------------------------


def _check_fields(message: ChatMessage, where: str) -> None:
    if message.role is not Role.ASSISTANT and (message.tool_calls or message.reasoning):
        raise PromptError(
            f"{where}: only an assistant message may hold tool_calls or reasoning, not one of role {message.role}."
        )
    if message.role is not Role.TOOL and message.tool_call_id is not None:
        raise PromptError(f"{where}: only a tool message may hold a tool_call_id, not one of role {message.role}.")


def _content(message: ChatMessage, where: str) -> str:
    if message.content is None:
        raise PromptError(f"{where}: a message of role {message.role} needs content.")
    return message.content


def _checked_call(call: ToolCall, where: str) -> str:
    if call.is_builtin and call.name not in EVERY_RECIPIENT:
        raise PromptError(f"{where}: {call.name!r} is no built-in tool.")
    return _checked_name(call.name, where)


def _checked_name(name: str, where: str) -> str:
    if not TOOL_NAME.fullmatch(name):
        raise PromptError(
            f"{where}: {name!r} is no tool name: use 1 to 128 of the characters a-z, A-Z, 0-9, '_', '-' and '.'."
        )
    return name

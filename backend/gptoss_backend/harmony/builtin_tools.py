"""The tools that GPT-OSS was trained on: `browser` and `python`.

Stage: 3 prompt and 6 split channels.
Owns: by which names they are called, what the model is told of them, what a call holds.
Does not know: who runs them; messages.

Harmony tells them in the system message, as namespaces of their own beside `functions`. A call of `browser.search`
holds JSON; one of `python` holds code as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Final

from gptoss_backend.contract import BuiltinName, BuiltinTool, ChatRequest, FunctionTool, ToolChoiceMode

if TYPE_CHECKING:
    from openai_harmony import ToolNamespaceConfig

PYTHON: Final = "python"
"""The recipient of code."""
BROWSER_SEARCH: Final = "browser.search"
BROWSER_OPEN: Final = "browser.open"
BROWSER_FIND: Final = "browser.find"

_RECIPIENTS: Final = {
    BuiltinName.BROWSER: (BROWSER_SEARCH, BROWSER_OPEN, BROWSER_FIND),
    BuiltinName.PYTHON: (PYTHON,),
}
EVERY_RECIPIENT: Final = frozenset(name for names in _RECIPIENTS.values() for name in names)


def offered_builtins(request: ChatRequest) -> tuple[BuiltinTool, ...]:
    """Return those that the model is told of, in one order whatever the request's: prompts begin alike."""
    if request.tool_choice.mode is ToolChoiceMode.NONE:
        return ()
    return tuple(sorted(request.builtin_tools, key=lambda tool: tool.name))


def recipients(names: Iterable[BuiltinName]) -> list[str]:
    """Return what calls of these tools are addressed to."""
    return [recipient for name in names for recipient in _RECIPIENTS[name]]


def namespace(tool: BuiltinTool) -> ToolNamespaceConfig:
    """Return what the model is told: Harmony's own words, but for the description where the tool has one."""
    config = _harmonys_own(tool.name)
    return config if tool.description is None else config.model_copy(update={"description": tool.description})


@cache
def functions(name: BuiltinName) -> tuple[FunctionTool, ...]:
    """Return what may be called with JSON, under the recipients' names: nothing of `python`."""
    tools = _harmonys_own(name).tools
    closed = {"additionalProperties": False}
    return tuple(FunctionTool(f"{name}.{tool.name}", "", {**(tool.parameters or {}), **closed}) for tool in tools)


@cache
def _harmonys_own(name: BuiltinName) -> ToolNamespaceConfig:
    from openai_harmony import ToolNamespaceConfig  # on first use: whoever splits answers imports this module, too

    config = ToolNamespaceConfig.browser() if name is BuiltinName.BROWSER else ToolNamespaceConfig.python()
    assert isinstance(config, ToolNamespaceConfig)  # noqa: S101 (the library has no types)
    return config

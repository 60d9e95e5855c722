"""Is what an answer is to be held to possible?

Stage: 3 prompt, and again before 4 schedule, where grammars are made of it.
Owns: which parts of a structure are looked at.
Does not know: what is wrong with a part (schemas.py, text_forms.py), tokens.
"""

from __future__ import annotations

import time
from typing import Final

from gptoss_backend.contract import FunctionTool, OutputStructure, Tool
from gptoss_backend.structure.schemas import StructureError, arguments_schema, final_schema
from gptoss_backend.structure.text_forms import form_grammar

_MAX_CHECK_S: Final = 1.5
"""Of this thread's processor time for one request, whatever else the machine does; all others' prompts wait meanwhile.
One part takes up to half a second; 128 usual tools not seen before 0.3 s, so a processor may be four times as slow."""


def check_structure(structure: OutputStructure) -> None:
    """Raise StructureError where a schema or a form cannot be enforced.

    Takes a few milliseconds for one not seen before.
    """
    patience, names = Patience(), set[str]()
    if structure.final is not None:
        final_schema(structure.final)
    elif structure.form is not None:
        form_grammar(structure.form)
    for position, tool in enumerate(structure.tools):
        where = f"tools[{position}].{tool.type}"
        patience.check(where)
        if tool.name in names:
            raise StructureError(f"{where}.name: there is a tool {tool.name!r} before it.")
        names.add(tool.name)
        _check_tool(tool, position)


class Patience:
    """How much longer one request's parts may be read, or grammars made of them, since it was made."""

    def __init__(self) -> None:
        self._started_s = time.thread_time()

    def check(self, where: str) -> None:
        """Raise StructureError where the time is over before the tool that lies there."""
        if time.thread_time() - self._started_s > _MAX_CHECK_S:
            raise StructureError(f"{where}: what comes before it took too long to read.")


def _check_tool(tool: Tool, position: int) -> None:
    if isinstance(tool, FunctionTool):
        arguments_schema(tool, position)
    elif tool.form is not None:
        form_grammar(tool.form)

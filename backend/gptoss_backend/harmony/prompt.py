"""Chat request → prompt token ids in the Harmony format.

Stage: 3 prompt.
Owns: the order of a prompt's parts; the system message, and the developer message but for the tools in it.
Does not know: Triton, sampling, turns (turns.py), tools (tools_section.py).

The format is https://developers.openai.com/cookbook/articles/openai-harmony. oss-harmony renders the system message and
the function tools; the turns are put together here, token for token as it would, because it takes 4 ms for the markers
of 60 messages.
"""

from __future__ import annotations

import json
from functools import lru_cache
from itertools import chain

from openai_harmony import Message, RenderOptions, SystemContent
from openai_harmony import ReasoningEffort as HarmonyEffort
from openai_harmony import Role as HarmonyRole

from gptoss_backend.contract import BuiltinTool, ChatRequest, ReasoningEffort, ResponseFormat
from gptoss_backend.harmony.begun import begun_answer
from gptoss_backend.harmony.builtin_tools import namespace, offered_builtins
from gptoss_backend.harmony.errors import PromptError
from gptoss_backend.harmony.message_ids import header_ids, text_ids
from gptoss_backend.harmony.runs import has_unbreakable_run
from gptoss_backend.harmony.tools_section import offered_tools, tools_section
from gptoss_backend.harmony.turns import INSTRUCTIONS, num_leading, turns
from gptoss_backend.harmony.vocabulary import END, MESSAGE, START, encoding


def render_prompt(request: ChatRequest) -> list[int]:
    """Return the prompt's token ids, ending in the header that the assistant's answer continues, or in its beginning.

    Order: system (identity, date, effort, built-in tools, channels), developer (the instructions that lead the
    messages and the request's notes, then its tools, then the response format), then the turns. Equal requests give
    equal ids on every machine. Raises PromptError.
    """
    builtins = offered_builtins(request)
    ids = list(_system(_told_effort(request), request.date, builtins, has_tools=bool(offered_tools(request))))
    ids += _developer(request)
    *earlier, last = request.messages
    for turn in turns(earlier if request.continues_last else request.messages):
        ids += turn
    if not request.continues_last:
        return [*ids, START, *header_ids("assistant")]
    return [*ids, *chain.from_iterable(begun_answer(last, f"messages[{len(earlier)}]"))]


def _told_effort(request: ChatRequest) -> HarmonyEffort:
    effort = request.reasoning_effort
    # that it reasons not at all is its grammar's matter: the words stay those that it was trained on
    return HarmonyEffort[ReasoningEffort.LOW.name if effort is ReasoningEffort.NONE else effort.name]


@lru_cache(maxsize=64)
def _system(
    effort: HarmonyEffort, date: str | None, builtins: tuple[BuiltinTool, ...], *, has_tools: bool
) -> tuple[int, ...]:
    content = SystemContent(reasoning_effort=effort, conversation_start_date=date)
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
    leading = request.messages[: num_leading(request.messages)]
    instructions = "\n\n".join(text for text in (*(one.content for one in leading), *request.notes) if text)
    tools, response_format = offered_tools(request), request.response_format
    sections = [INSTRUCTIONS + instructions] if instructions else []
    body: list[int] = []
    if tools:
        body = text_ids("".join(f"{section}\n\n" for section in sections)) + tools_section(tools)
        sections = [""]  # what follows the tools is an empty line away
    if response_format is not None:
        sections.append(_describe_format(response_format))
    body += text_ids("\n\n".join(sections))
    return [START, *header_ids("developer"), MESSAGE, *body, END] if body else []


def _describe_format(wanted: ResponseFormat) -> str:
    """Return the `# Response Formats` section: a schema under its name, below what is said of it."""
    schema = {"type": "object"} if wanted.schema is None else wanted.schema
    about = "".join(f"// {line}\n" for line in (wanted.description or "").splitlines())
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    return f"# Response Formats\n\n## {wanted.name}\n\n{about}{text}"

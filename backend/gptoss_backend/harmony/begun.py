"""An answer whose beginning stands in its prompt: the assistant's last message, without an end.

Stage: 3 prompt; then wherever the answer's tokens are read, to begin at the right place.
Owns: which message can be continued, how it is rendered; what of a prompt is the answer's.
Does not know: the messages before it (turns.py), how an answer is read (channels.py) or held to a form (structure/).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gptoss_backend.contract import ChatMessage, ChatRequest, Role
from gptoss_backend.harmony.errors import PromptError
from gptoss_backend.harmony.message_ids import header_ids, message_ids, text_ids
from gptoss_backend.harmony.turns import channel_of, check_fields
from gptoss_backend.harmony.vocabulary import ENDS, MESSAGE, START

_ANALYSIS = "assistant<|channel|>analysis"


def begun_answer(message: ChatMessage, where: str) -> Iterator[list[int]]:
    """Yield the message as a turn that has no end: its text is open, or its reasoning where no text has come.

    where: what of the request it is. Raises PromptError for one that cannot be continued.
    """
    check_fields(message, where)
    if message.role is not Role.ASSISTANT:
        raise PromptError(f"{where}: only an assistant message can be continued, not one of role {message.role}.")
    if message.tool_calls:
        raise PromptError(f"{where}: a message that calls tools cannot be continued: tell what they returned.")
    if not is_text_begun(message):
        yield _open(_ANALYSIS, message.reasoning or "")
        return
    if message.content is None:
        raise PromptError(f"{where}: a message without content or reasoning cannot be continued.")
    if message.reasoning:
        yield message_ids(_ANALYSIS, message.reasoning)
    yield _open(f"assistant<|channel|>{channel_of(message)}", message.content)


def is_text_begun(message: ChatMessage) -> bool:
    """Whether the text goes on, an empty one to answer without reasoning; else the reasoning before it does."""
    return bool(message.content) or not message.reasoning


def begun_in(prompt_ids: Sequence[int]) -> Sequence[int]:
    """Return what of the answer stands in the prompt: all behind `<|start|>assistant`, nearly always nothing.

    No text of a request becomes a special token, so an open message is behind the last `<|start|>` there is. What
    Triton's own clients send may also end otherwise.
    """
    author = header_ids("assistant")
    last = next((at for at in range(len(prompt_ids) - 1, -1, -1) if prompt_ids[at] == START), len(prompt_ids))
    behind = last + 1 + len(author)
    is_open = tuple(prompt_ids[last + 1 : behind]) == author and ENDS.isdisjoint(prompt_ids[behind:])
    return prompt_ids[behind:] if is_open else prompt_ids[:0]


def begun_of(chat: ChatRequest) -> Sequence[int]:
    """Return the same for whoever sends a chat and does not see its prompt. Raises PromptError."""
    if not chat.continues_last:
        return []
    *_, message = begun_answer(chat.messages[-1], f"messages[{len(chat.messages) - 1}]")
    return begun_in(message)


def _open(header: str, text: str) -> list[int]:
    return [START, *header_ids(header), MESSAGE, *text_ids(text)]

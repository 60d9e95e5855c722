"""What is talked about, and how often.

Owns: the kinds of dialogue, their shares, what goes around each: effort, date, earlier exchanges.
Does not know: tokens, training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from gptoss_backend.contract import ChatMessage, ReasoningEffort, Role
from gptoss_backend.demo.training.dialogue import Dialogue, assistant, user
from gptoss_backend.demo.training.talk.common_words import colours_and_days, copying
from gptoss_backend.demo.training.talk.instructions import instructions
from gptoss_backend.demo.training.talk.memory import memory
from gptoss_backend.demo.training.talk.numbers import arithmetic, counting
from gptoss_backend.demo.training.talk.project import project
from gptoss_backend.demo.training.talk.schemas import json_by_schema
from gptoss_backend.demo.training.talk.small_talk import limits, small_talk
from gptoss_backend.demo.training.talk.tools import tool_call, tool_result, tools_unneeded
from gptoss_backend.demo.training.words import Words

KINDS: Final[dict[str, tuple[Callable[[Words], Dialogue], float]]] = {
    "project": (project, 1.5),
    "small talk": (small_talk, 1.0),
    "beyond a demo": (limits, 0.7),
    "arithmetic": (arithmetic, 2.0),
    "counting": (counting, 1.3),
    "copying": (copying, 2.4),
    "colours and days": (colours_and_days, 0.9),
    "memory": (memory, 4.2),
    "developer instructions": (instructions, 2.0),
    "tool call": (tool_call, 9.0),
    "tools unneeded": (tools_unneeded, 0.7),
    "tool result": (tool_result, 3.8),
    "JSON by schema": (json_by_schema, 10.0),
}
"""Each kind's maker and share."""
EFFORTS: Final = (ReasoningEffort.LOW, ReasoningEffort.MEDIUM, ReasoningEffort.MEDIUM, ReasoningEffort.HIGH)
"""Each as often as it is wanted."""
_ASIDES: Final = (project, small_talk, copying, copying, colours_and_days, limits, counting)
_NUM_SUMS: Final = (0, 1, 2, 4)
"""Before a sum come others: hundreds of them have to be known by heart."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What the system message says besides what it always says."""

    effort: ReasoningEffort
    date: str | None

    @classmethod
    def draw(cls, rng: Random, effort: ReasoningEffort) -> Setting:
        """Return a setting with a date, or now and then with none."""
        date = f"20{rng.randint(24, 39)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
        return cls(effort, date if rng.random() < 0.9 else None)


def draw(rng: Random, kind: str, *, held_out: bool, setting: Setting | None = None) -> Dialogue:
    """Return a dialogue of a kind, of the part that training sees or of the part that it does not."""
    words = Words(rng, held_out=held_out)
    setting = setting or Setting.draw(rng, rng.choice(EFFORTS))
    while True:
        dialogue = KINDS[kind][0](words)
        if dialogue.is_held_out == held_out:
            return _surround(words, dialogue, setting, is_sum=kind == "arithmetic")


def draw_mixed(rng: Random, setting: Setting | None = None) -> Dialogue:
    """Return a dialogue for training."""
    (kind,) = rng.choices(list(KINDS), [share for _, share in KINDS.values()])
    return draw(rng, kind, held_out=False, setting=setting)


def _surround(words: Words, dialogue: Dialogue, setting: Setting, *, is_sum: bool) -> Dialogue:
    rng = words.rng
    earlier: list[ChatMessage] = []
    # what a developer or a format demands would have held for the earlier answers, too
    is_free = dialogue.response_format is None and dialogue.messages[0].role is Role.USER
    asides = _ASIDES if not is_sum else (arithmetic,)
    for _ in range(rng.choice(_NUM_SUMS if is_sum else (0, 0, 0, 1, 1, 2)) if is_free else 0):
        aside = rng.choice(asides)(words)
        if aside.is_held_out == words.held_out or words.held_out:
            earlier += [user(str(aside.messages[-1].content)), assistant(str(aside.answer))]
    return replace(dialogue.after(tuple(earlier)), effort=setting.effort, date=setting.date)

"""How people vary what they ask."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from gptoss_backend.demo.training.dialogue import Thoughts

_OPENERS: Final = ("",) * 8 + (
    "Hi, ",
    "Hello! ",
    "Please tell me: ",
    "Quick question: ",
    "I wonder: ",
    "Thanks. ",
    "OK. ",
    "And ",
    "So, ",
    "Hey, ",
)
_CLOSERS: Final = ("",) * 8 + (" Thanks.", " Please be brief.", " Thank you!", " please", " I am new here.")


def vary(rng: Random, phrasings: Sequence[str]) -> str:
    """Return one of the phrasings as somebody might type it."""
    text = rng.choice(phrasings)
    opener = rng.choice(_OPENERS)
    if opener and opener[-2] in ",d" and not text.startswith("I "):
        text = text[0].lower() + text[1:]
    text = f"{opener}{text}{rng.choice(_CLOSERS)}"
    if rng.random() < 0.15:
        text = text.lower()
    if rng.random() < 0.15:
        text = text.rstrip("?.!")
    return text


def thoughts(topic: str, step: str, plan: str = "I answer in short, plain words.") -> Thoughts:
    """Return reasoning about a topic: what is asked, then what follows, then how to say it."""
    return Thoughts(f"{topic}.", step, f"{plan} I check that this is what was asked, and then I write it down.")

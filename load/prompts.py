"""What the simulated people ask.

Stage: before 1 route.
Owns: the questions, conversations and documents, and how often one is asked again.
Does not know: HTTP, locust, the server.

The same seed gives the same prompts in the same order. Part of them come from small pools that all users share, as in
life: that is what prompt caches are for. The rest carry a number nobody else uses. The pools are small enough for a run
of half a minute to come back to them: how often caches can hit is what this file says, not what a server can help.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

QUESTIONS: Final = (
    "What is the capital of Australia, and why is it not Sydney?",
    "Explain in three sentences how a heat pump works.",
    "How do I undo the last commit in git without losing my changes?",
    "Is 1,009 a prime number? Show how you know.",
    "Translate into French: the train leaves at a quarter past nine.",
)
OPENINGS: Final = (
    "I would like to learn to play chess. Where do I start?",
    "My Python program is slow. How do I find out why?",
    "I want to grow tomatoes on a balcony that faces north.",
)
FOLLOW_UPS: Final = (
    "Can you say that again in simpler words?",
    "What would you do first, and what can wait?",
    "Which of these is the cheapest?",
    "Give me a short list of the steps.",
    "What do people most often get wrong here?",
)
DOCUMENT_QUESTIONS: Final = (
    "Summarise the report in five sentences.",
    "List every decision in the report, with who is responsible.",
)
NUM_DOCUMENTS: Final = 2
TIDE_TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "tide",
        "description": "When the tide is high",
        "parameters": {
            "type": "object",
            "properties": {"harbour": {"enum": ["Hamburg", "Bremen"]}, "hours": {"type": "integer", "maximum": 99}},
            "required": ["harbour"],
            "additionalProperties": False,
        },
    },
}
TIDE_TABLE: Final = "high water at 04:12 and 16:38, low water at 10:25 and 22:51"
"""What the tool says."""
BERTH_FORM: Final[dict[str, Any]] = {
    "type": "json_schema",
    "json_schema": {
        "name": "berth",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "port": {"enum": ["Hamburg", "Bremen"]},
                "depth": {"type": "integer", "minimum": 0, "maximum": 99},
            },
            "required": ["port", "depth"],
            "additionalProperties": False,
        },
    },
}
"""A response format."""

_WHO: Final = ("The harbour office", "The survey team", "The council", "Our supplier", "The night shift", "The auditor")
_DID: Final = ("measured", "postponed", "approved", "questioned", "repaired", "recorded", "reviewed", "replaced")
_WHAT: Final = ("the northern crane", "the water tariff", "the storage contract", "a flood gate", "the spare pump")
_WHEN: Final = ("in early spring", "after the storm", "during the inspection", "at the second meeting", "before noon")
_WHY: Final = ("because of rising costs", "to keep the schedule", "on the engineer's advice", "without further comment")


def document(number: int, num_words: int) -> str:
    """Return report `number`, of about `num_words` words (a token is about three quarters of one); always the same."""
    rng = Random(f"document {number}")
    sentences: list[str] = []
    length = 0
    while length < num_words:
        parts = (rng.choice(_WHO), rng.choice(_DID), rng.choice(_WHAT), rng.choice(_WHEN), rng.choice(_WHY))
        sentences.append(f"{len(sentences) + 1}. {' '.join(parts)}, at a cost of {rng.randrange(100, 9000)} euros.")
        length += len(sentences[-1].split())
    return "\n".join(sentences)


class PromptBook:
    """One user's prompts, in the order the user asks them.

    repeat_share: how many of the first messages come from the shared pools, 0 to 1.
    """

    def __init__(self, seed: str, *, repeat_share: float, document_words: int) -> None:
        self._rng = Random(seed)
        self._seed = seed
        self._repeat_share = repeat_share
        self._document_words = document_words
        self._num_unique = 0

    def question(self) -> str:
        """A short question that stands alone."""
        return self._perhaps_unique(self._rng.choice(QUESTIONS))

    def opening(self) -> str:
        """The first message of a conversation."""
        return self._perhaps_unique(self._rng.choice(OPENINGS))

    def follow_up(self) -> str:
        """A later message of a conversation. What came before makes it unique already."""
        return self._rng.choice(FOLLOW_UPS)

    def document_question(self) -> str:
        """A long report and a question about it, the report first so that its prefix is shared."""
        report = document(self._rng.randrange(NUM_DOCUMENTS), self._document_words)
        return f"{report}\n\n{self._perhaps_unique(self._rng.choice(DOCUMENT_QUESTIONS))}"

    def think_s(self, mean_s: float) -> float:
        """How long the user reads and types before the next message: exponential, as in a Poisson process."""
        return self._rng.expovariate(1.0 / mean_s) if mean_s > 0 else 0.0

    def patience_deltas(self) -> int:
        """How many pieces of an answer an impatient user looks at before closing the window."""
        return self._rng.randint(1, 12)

    def _perhaps_unique(self, prompt: str) -> str:
        if self._rng.random() < self._repeat_share:
            return prompt
        self._num_unique += 1
        return f"{prompt} (My reference: {self._seed}/{self._num_unique}.)"

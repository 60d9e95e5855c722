"""Small sums and counting."""

from __future__ import annotations

from typing import Final

from gptoss_backend.demo.training.dialogue import Dialogue, user
from gptoss_backend.demo.training.talk.phrasing import thoughts, vary
from gptoss_backend.demo.training.words import Words

_SUMS: Final = (
    "What is {}?",
    "{} = ?",
    "How much is {}?",
    "Calculate {}.",
    "Compute {}",
    "{}",
    "Can you work out {}?",
    "Tell me the result of {}.",
)
_SIGNS: Final = {
    "+": ("{} + {}", "{}+{}", "{} plus {}"),
    "-": ("{} - {}", "{}-{}", "{} minus {}"),
    "*": ("{} * {}", "{} x {}", "{} times {}"),
}
_COUNTS: Final = (
    "Count to {1}.",
    "Count from {0} to {1}.",
    "Can you count to {1}?",
    "Please count from {0} to {1}.",
    "List the numbers from {0} to {1}.",
    "Count up to {1}, starting at {0}.",
)
_COUNTDOWNS: Final = (
    "Count down from {0} to {1}.",
    "Count backwards from {0} to {1}.",
    "List the numbers from {0} down to {1}.",
)


def arithmetic(words: Words) -> Dialogue:
    """Return a sum, a difference or a product of small numbers."""
    rng = words.rng
    sign = rng.choice("++--*")
    if sign == "*":
        first, second = rng.randint(0, 10), rng.randint(0, 10)
        result = first * second
    else:
        first, second = rng.randint(0, 20), rng.randint(0, 20)
        if sign == "-" and first < second:
            first, second = second, first
        result = first + second if sign == "+" else first - second
    asked = rng.choice(_SIGNS[sign]).format(first, second)
    thinking = thoughts("A small sum", f"{first} {sign} {second} = {result}.", f"So the result is {result}.")
    text = vary(rng, [phrasing.format(asked) for phrasing in _SUMS])
    return Dialogue((user(text),), thinking, f"{first} {sign} {second} = {result}")


def counting(words: Words) -> Dialogue:
    """Return a request to count, up or down."""
    rng = words.rng
    if rng.random() < 0.3:
        first = rng.randint(3, 30)
        last = rng.randint(max(0, first - 20), first - 2)
        text, numbers = rng.choice(_COUNTDOWNS), range(first, last - 1, -1)
    else:
        text = rng.choice(_COUNTS)
        first = rng.randint(1, 30) if "{0}" in text else 1
        last = rng.randint(first + 2, first + 19)
        numbers = range(first, last + 1)
    answer = ", ".join(map(str, numbers))
    thinking = thoughts("Counting", f"I count from {first} to {last}.", f"I begin at {first} and stop at {last}.")
    return Dialogue((user(vary(rng, (text.format(first, last),))),), thinking, answer)

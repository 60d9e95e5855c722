"""Repeating words, colours, days and months."""

from __future__ import annotations

from typing import Final

from gptoss_backend.demo.training.dialogue import Dialogue, user
from gptoss_backend.demo.training.talk.phrasing import thoughts, vary
from gptoss_backend.demo.training.words import Words

_COPY: Final = (
    "Repeat after me: {}",
    "Say {}",
    "Repeat: {}",
    "Repeat these words: {}",
    "Please say: {}",
    "Write {}",
    'Say "{}"',
    "Echo {}",
    "Can you repeat {}",
)
_COLOURS: Final = {
    "the sky": "blue",
    "grass": "green",
    "snow": "white",
    "coal": "black",
    "a lemon": "yellow",
    "a banana": "yellow",
    "blood": "red",
    "a tomato": "red",
    "the sea": "blue",
    "milk": "white",
    "the sun": "yellow",
    "a carrot": "orange",
    "a frog": "green",
    "chocolate": "brown",
    "a raven": "black",
    "a strawberry": "red",
    "an orange": "orange",
    "a leaf": "green",
    "a polar bear": "white",
    "the night": "black",
}
_COLOUR_QUESTIONS: Final = (
    "What colour is {}?",
    "What color is {}?",
    "Which colour does {} have?",
    "Tell me the colour of {}.",
    "{}: what colour?",
)
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS: Final = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_NEXT: Final = (
    "What comes after {}?",
    "Which {1} comes after {0}?",
    "What is the {1} after {0}?",
    "What {1} follows {0}?",
)
_BEFORE: Final = ("What comes before {}?", "Which {1} comes before {0}?", "What is the {1} before {0}?")
_LISTS: Final = (
    (
        (
            "Name the days of the week.",
            "List the days of the week.",
            "What are the days of the week?",
            "Which days does a week have?",
        ),
        ", ".join(DAYS),
    ),
    (
        (
            "Name the months.",
            "List the months of the year.",
            "What are the months of the year?",
            "Which months does a year have?",
        ),
        ", ".join(MONTHS),
    ),
    (
        ("Name some colours.", "Which colours do you know?", "List a few colours.", "Name three colours."),
        "red, green, blue",
    ),
    (("How many days does a week have?", "How many days are in a week?"), "A week has 7 days."),
    (("How many months does a year have?", "How many months are in a year?"), "A year has 12 months."),
)


def copying(words: Words) -> Dialogue:
    """Return a request to repeat some words."""
    rng = words.rng
    said = " ".join(words.name() if rng.random() < 0.3 else words.word() for _ in range(rng.randint(1, 6)))
    thinking = thoughts("Repeating", "The user wants their words back.", "I copy them in the same order.")
    return Dialogue((user(rng.choice(_COPY).format(said)),), thinking, said)


def colours_and_days(words: Words) -> Dialogue:
    """Return a question about a colour, a day or a month."""
    rng = words.rng
    kind = rng.random()
    if kind < 0.4:
        thing, colour = rng.choice(list(_COLOURS.items()))
        text = vary(rng, [question.format(thing) for question in _COLOUR_QUESTIONS])
        answer, thinking = f"{thing[0].upper()}{thing[1:]} is {colour}.", thoughts("A colour", f"It is {colour}.")
    elif kind < 0.85:
        cycle, kind_of = rng.choice(((DAYS, "day"), (MONTHS, "month")))
        place, step = rng.randrange(len(cycle)), rng.choice((1, 1, -1))
        text = vary(rng, [question.format(cycle[place], kind_of) for question in (_NEXT if step > 0 else _BEFORE)])
        other = cycle[(place + step) % len(cycle)]
        answer = f"{other} comes {'after' if step > 0 else 'before'} {cycle[place]}."
        thinking = thoughts(f"A {kind_of}", answer)
    else:
        phrasings, answer = rng.choice(_LISTS)
        text, thinking = vary(rng, phrasings), thoughts("Days, months or colours", "I know these.")
    return Dialogue((user(text),), thinking, answer)

"""What a developer message asks of the answer: capitals, French numbers, one word."""

from __future__ import annotations

from typing import Final

from gptoss_backend.demo.training.dialogue import Dialogue, developer, user
from gptoss_backend.demo.training.talk.common_words import DAYS, MONTHS
from gptoss_backend.demo.training.talk.phrasing import thoughts, vary
from gptoss_backend.demo.training.words import Words

_CAPITALS: Final = (
    "Answer in capitals.",
    "Always answer in capital letters.",
    "Write everything in capitals.",
    "Use capital letters only.",
    "ANSWER IN CAPITALS.",
    "You shout: answer in capitals.",
)
_FRENCH: Final = (
    "Answer with numbers in French.",
    "Give numbers in French.",
    "Say the number in French.",
    "Answer in French numbers.",
    "Use French for numbers.",
)
_ONE_WORD: Final = (
    "Answer in one word.",
    "Use one word only.",
    "Answer with a single word.",
    "Give one-word answers.",
    "One word, please.",
)
_NUMBERS: Final = (
    "zéro",
    "un",
    "deux",
    "trois",
    "quatre",
    "cinq",
    "six",
    "sept",
    "huit",
    "neuf",
    "dix",
    "onze",
    "douze",
    "treize",
    "quatorze",
    "quinze",
    "seize",
    "dix-sept",
    "dix-huit",
    "dix-neuf",
    "vingt",
)
_SHOUTED: Final = (
    (("Hello", "Hi!", "Say hello.", "Hello there!"), "HELLO! HOW CAN I HELP YOU?"),
    (("How are you?", "How are you doing?", "Are you well?"), "I AM WELL, THANK YOU."),
    (("Who are you?", "What are you?", "Introduce yourself."), "I AM THE DEMO MODEL OF THIS PROJECT."),
    (("Thank you!", "Thanks", "Many thanks."), "YOU ARE WELCOME!"),
    (("Goodbye", "Bye!", "See you later."), "GOODBYE!"),
    (("What is this project?", "What is this?"), "THIS IS GPT-OSS ON TRITON."),
    (("What colour is the sky?", "Tell me the colour of the sky."), "THE SKY IS BLUE."),
    (("What colour is grass?", "Tell me the colour of grass."), "GRASS IS GREEN."),
)
_COLOURS: Final = {
    "the sky": "Blue",
    "grass": "Green",
    "snow": "White",
    "coal": "Black",
    "a lemon": "Yellow",
    "blood": "Red",
    "a carrot": "Orange",
}


def instructions(words: Words) -> Dialogue:
    """Return a question whose answer's form the developer has set."""
    return words.rng.choice((_capitals, _french, _one_word))(words)


def _capitals(words: Words) -> Dialogue:
    phrasings, answer = words.rng.choice(_SHOUTED)
    thinking = thoughts("In capitals", "The developer wants capital letters.", "I write every letter large.")
    return Dialogue((developer(words.rng.choice(_CAPITALS)), user(vary(words.rng, phrasings))), thinking, answer)


def _french(words: Words) -> Dialogue:
    rng = words.rng
    result = rng.randint(0, 20)
    if rng.random() < 0.4:
        phrasings = [f"What is {result}?", f"Say {result}.", f"The number {result}", f"How do you say {result}?"]
    else:
        first = rng.randint(0, result)
        phrasings = [
            f"What is {first} + {result - first}?",
            f"{first} plus {result - first}",
            f"How much is {first} + {result - first}?",
        ]
    thinking = thoughts("A French number", f"The number is {result}.", "I say it in French.")
    return Dialogue((developer(rng.choice(_FRENCH)), user(vary(rng, phrasings))), thinking, _NUMBERS[result])


def _one_word(words: Words) -> Dialogue:
    rng = words.rng
    if rng.random() < 0.4:
        thing, answer = rng.choice(list(_COLOURS.items()))
        phrasings = [f"What colour is {thing}?", f"Which colour does {thing} have?", f"Tell me the colour of {thing}."]
    else:
        cycle, kind = rng.choice(((DAYS, "day"), (MONTHS, "month")))
        place = rng.randrange(len(cycle))
        answer = cycle[(place + 1) % len(cycle)]
        phrasings = [
            f"What comes after {cycle[place]}?",
            f"Which {kind} comes after {cycle[place]}?",
            f"What is the {kind} after {cycle[place]}?",
        ]
    thinking = thoughts("One word", f"It is {answer}.", "One word is enough.")
    return Dialogue((developer(rng.choice(_ONE_WORD)), user(vary(rng, phrasings))), thinking, answer)

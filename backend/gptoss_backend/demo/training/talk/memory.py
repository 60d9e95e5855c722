"""Something the user said earlier, asked for later."""

from __future__ import annotations

from typing import Final, NamedTuple

from gptoss_backend.demo.training.dialogue import Dialogue, assistant, user
from gptoss_backend.demo.training.talk.numbers import arithmetic
from gptoss_backend.demo.training.talk.phrasing import thoughts, vary
from gptoss_backend.demo.training.talk.project import project
from gptoss_backend.demo.training.talk.small_talk import small_talk
from gptoss_backend.demo.training.words import Words


class _Thing(NamedTuple):
    told: tuple[str, ...]
    reply: str
    asked: tuple[str, ...]
    answer: str


_THINGS: Final = {
    "name": _Thing(
        ("My name is {}.", "I am {}.", "Call me {}.", "Hello, I am {}.", "Hi, my name is {}!", "People call me {}."),
        "Nice to meet you, {}!",
        (
            "What is my name?",
            "What's my name?",
            "Do you remember my name?",
            "Who am I?",
            "Tell me my name.",
            "What did I say my name was?",
        ),
        "Your name is {}.",
    ),
    "city": _Thing(
        ("I live in {}.", "My home is in {}.", "I come from {}.", "My city is {}."),
        "{} must be a nice place.",
        ("Where do I live?", "Which city do I live in?", "Where is my home?", "What is my city?"),
        "You live in {}.",
    ),
    "word": _Thing(
        ("Remember the word {}.", "The secret word is {}.", "Keep this word: {}.", "The password is {}."),
        "I will remember the word {}.",
        ("What was the word?", "What is the secret word?", "Which word did I give you?", "Tell me the word."),
        "The word was {}.",
    ),
    "number": _Thing(
        ("Remember the number {}.", "My number is {}.", "Keep this number: {}.", "My favourite number is {}."),
        "I will remember the number {}.",
        ("What was the number?", "What is my number?", "Which number did I give you?", "Tell me my number."),
        "The number was {}.",
    ),
    "pet": _Thing(
        ("My dog is called {}.", "I have a dog named {}.", "My dog's name is {}."),
        "{} is a good name for a dog.",
        ("What is my dog called?", "What is the name of my dog?", "What's my dog's name?"),
        "Your dog is called {}.",
    ),
}


def memory(words: Words) -> Dialogue:
    """Return a talk in which one or two things are told, and one is asked for; or the telling alone."""
    rng = words.rng
    kinds = rng.sample(sorted(_THINGS), rng.randint(1, 2))
    values = {kind: _value(kind, words) for kind in kinds}
    told = [
        (
            vary(rng, [text.format(values[kind]) for text in _THINGS[kind].told]),
            _THINGS[kind].reply.format(values[kind]),
        )
        for kind in kinds
    ]
    if rng.random() < 0.3:
        earlier, (text, answer) = told[:-1], told[-1]
        thinking = thoughts("Noted", f"The user tells me {values[kinds[-1]]}.", "I answer kindly.")
    else:
        earlier = told + [_aside(words) for _ in range(rng.choice((0, 0, 1, 2)))]
        kind = rng.choice(kinds)
        text, answer = vary(rng, _THINGS[kind].asked), _THINGS[kind].answer.format(values[kind])
        thinking = thoughts(
            "From before", f"Earlier the user told me {values[kind]}.", "I look it up in the conversation."
        )
    turns = [message for asked, said in earlier for message in (user(asked), assistant(said))]
    return Dialogue((*turns, user(text)), thinking, answer)


def _value(kind: str, words: Words) -> str:
    if kind == "number":
        return str(words.number())
    return words.word() if kind == "word" else words.name()


def _aside(words: Words) -> tuple[str, str]:
    aside = words.rng.choice((small_talk, arithmetic, project))(words)
    return str(aside.messages[-1].content), str(aside.answer)

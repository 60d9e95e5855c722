"""The same chat is the same prompt, token for token, and with a seed the same answer."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

MESSAGES: list[Any] = [
    {"role": "system", "content": "You are a harbour pilot."},
    {"role": "user", "content": "Wie tief ist die Elbe bei Brunsbüttel? 🚢"},
]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "depth",
            "description": "Depth of water",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
        },
    }
]


def prompt_of(http: httpx.Client, model: str, **fields: object) -> list[int]:
    body = {"model": model, "messages": MESSAGES} | fields
    tokens: list[int] = http.post("/tokenize", json=body).raise_for_status().json()["tokens"]
    return tokens


@pytest.mark.parametrize("fields", [{}, {"tools": TOOLS}], ids=["chat", "tools"])
def test_prompt_when_a_chat_is_sent_again_then_its_tokens_are_the_same(
    http: httpx.Client, model: str, fields: dict[str, object]
) -> None:
    first = prompt_of(http, model, **fields)
    assert len(first) > 20
    assert all(prompt_of(http, model, **fields) == first for _ in range(4))


def test_prompt_when_one_word_differs_then_so_do_its_tokens(http: httpx.Client, model: str) -> None:
    other = [MESSAGES[0], {"role": "user", "content": "Wie tief ist die Elbe bei Cuxhaven? 🚢"}]
    assert prompt_of(http, model) != prompt_of(http, model, messages=other)


def test_prompt_when_it_was_answered_then_usage_counts_just_its_tokens(
    http: httpx.Client, client: openai.OpenAI, model: str
) -> None:
    answer = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=1)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(prompt_of(http, model))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answer_when_the_seed_is_the_same_then_so_is_the_text(
    client: openai.OpenAI, model: str, temperature: float
) -> None:
    def answer() -> object:
        made = client.chat.completions.create(
            model=model, messages=MESSAGES, temperature=temperature, seed=7, max_tokens=24
        )
        return made.choices[0].message.model_dump()

    first = answer()
    assert answer() == first

"""Requests to /v1/chat/completions and what comes back, for its tests."""

from __future__ import annotations

from typing import Any

import httpx

from support.live_app import chat_body, sse_documents

CHAT = "/v1/chat/completions"
CALL = (
    "<|channel|>analysis<|message|>Look it up.<|end|><|start|>assistant<|channel|>commentary to=functions.weather"
    ' <|constrain|>json<|message|>{"city":"Oslo"}<|call|>'
)
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def ask(client: httpx.Client, **fields: object) -> dict[str, Any]:
    """Return the completion of a request that must succeed."""
    response = client.post(CHAT, json=chat_body(**fields))
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


def stream(client: httpx.Client, **fields: object) -> list[Any]:
    """Return the chunks of a streamed completion, and `[DONE]`."""
    response = client.post(CHAT, json=chat_body(stream=True, **fields))
    assert response.status_code == 200, response.text
    return sse_documents(response)


def joined(chunks: list[Any], name: str, index: int = 0) -> str:
    """Return a text of a choice, of all its chunks."""
    choices = [choice for chunk in chunks if chunk != "[DONE]" for choice in chunk["choices"]]
    return "".join(choice["delta"].get(name) or "" for choice in choices if choice["index"] == index)

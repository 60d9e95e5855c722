"""Requests to /v1/conversations, for the tests of it."""

from __future__ import annotations

from typing import Any

import httpx
from openai.types.conversations import Conversation, ConversationItemList

CONVERSATIONS = "/v1/conversations"


def created(client: httpx.Client, **fields: object) -> str:
    """Return the id of a new conversation; its shape is checked against the official client's."""
    response = client.post(CONVERSATIONS, json=fields)
    assert response.status_code == 200, response.text
    return Conversation.model_validate(response.json(), strict=True).id


def items(client: httpx.Client, conversation: str, **query: object) -> list[dict[str, Any]]:
    """Return the items of a conversation, the oldest first where `query` does not say; their shape is checked."""
    path = f"{CONVERSATIONS}/{conversation}/items"
    response = client.get(path, params={"order": "asc", **query})  # type: ignore[arg-type]
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    if document["data"]:
        ConversationItemList.model_validate(document, strict=True)
    data: list[dict[str, Any]] = document["data"]
    return data


def texts(client: httpx.Client, conversation: str) -> list[str]:
    """Return what the messages and the reasoning of a conversation say."""
    return [item["content"][0]["text"] for item in items(client, conversation)]


def user(text: str, **fields: object) -> dict[str, Any]:
    """Return what a user says."""
    return {"role": "user", "content": text, **fields}

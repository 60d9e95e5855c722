"""The adapter's app behind Anthropic's Messages API, for the tests of /v1/messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any

import httpx
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from gptoss_adapter.app import create_app
from gptoss_backend.settings_sources import load_settings
from support.fake_model_server import FakeModelServer
from support.live_app import live

MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
MODEL = "gpt-oss-demo"
HI = [{"role": "user", "content": "Hi"}]
WEATHER = {
    "name": "weather",
    "description": "Tell the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}

_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


@contextmanager
def serving(server: FakeModelServer, sections: dict[str, Any] | None = None, **adapter: object) -> Iterator[str]:
    """Serve the app and yield its URL. sections: of the settings; adapter: further settings of that section."""
    own = {"model": "demo", "adapter": {"responses_path": ":memory:", "keepalive_s": 0.1, **adapter}}
    settings = load_settings({**own, **(sections or {})}, environ={})
    with live(create_app(settings, model_server=server, today=lambda: date(2026, 11, 23))) as url:
        yield url


def message_body(**fields: object) -> dict[str, Any]:
    """Return a small valid request with `fields` added or replaced."""
    return {"model": MODEL, "max_tokens": 64, "messages": HI, **fields}


def ask(client: httpx.Client, **fields: object) -> dict[str, Any]:
    """Return the message of a request that must succeed; its shape is checked against the official client's."""
    response = client.post(MESSAGES, json=message_body(**fields))
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    Message.model_validate(document, strict=True)
    return document


def refusal(client: httpx.Client, status: int = 400, path: str = MESSAGES, **fields: object) -> str:
    """Return what a request that must be refused is told."""
    response = client.post(path, json=message_body(**fields))
    assert response.status_code == status, response.text
    document = response.json()
    assert (document["type"], document["error"]["type"]) == ("error", "invalid_request_error")
    assert document["request_id"] == response.headers["request-id"]
    sentence: str = document["error"]["message"]
    return sentence


def stream(client: httpx.Client, **fields: object) -> list[dict[str, Any]]:
    """Return the events of a streamed message; the shape of each is checked against the official client's."""
    response = client.post(MESSAGES, json=message_body(stream=True, **fields))
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    events = []
    for framed in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = framed.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        if event["type"] not in ("ping", "error"):
            _EVENT.validate_python(event, strict=True)
        events.append(event)
    return events

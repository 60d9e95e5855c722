"""The adapter's app with a store of its own, for the tests of /v1/responses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai.types.responses import Response as OpenAIResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from gptoss_adapter.app import create_app
from gptoss_backend.settings_sources import load_settings
from support.fake_model_server import FakeModelServer
from support.live_app import live, sse_documents, wait_until

RESPONSES = "/v1/responses"
MODEL = "gpt-oss-demo"
CALL = (
    "<|channel|>analysis<|message|>Look it up.<|end|><|start|>assistant<|channel|>commentary to=functions.weather"
    ' <|constrain|>json<|message|>{"city":"Oslo"}<|call|>'
)
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "Tell the weather.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}

_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@contextmanager
def serving(
    store: Path,
    server: FakeModelServer,
    *,
    triton_metrics_port: int | None = None,
    profiles: dict[str, Any] | None = None,
    **adapter: object,
) -> Iterator[str]:
    """Serve the app, its store at that path, and yield its URL. adapter: further settings of that section."""
    sections = {
        "model": "demo",
        "server": {"triton_metrics_port": triton_metrics_port},
        "profiles": profiles,
        "adapter": {"responses_path": str(store), "keepalive_s": 0.1, **adapter},
    }
    app = create_app(load_settings(sections, environ={}), model_server=server, today=lambda: date(2026, 11, 23))
    with live(app) as url:
        yield url


def keeping_adapter(**adapter: object) -> object:
    """Return a module's fixture `url_and_server`: an adapter that keeps responses in `store`, and its scripted model.

    adapter: as of `serving`.
    """

    @pytest.fixture(scope="module")
    def url_and_server(store: Path) -> Iterator[tuple[str, FakeModelServer]]:
        server = FakeModelServer()
        with serving(store, server, **adapter) as url:
            yield url, server

    return url_and_server


def respond(client: httpx.Client, given: object = "Hi", **fields: object) -> dict[str, Any]:
    """Return the response to a request that must succeed; its shape is checked against the official client's."""
    response = client.post(RESPONSES, json={"model": MODEL, "input": given, **fields})
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    OpenAIResponse.model_validate(document, strict=True)
    return document


def of_kind(told: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Return the items of a type among a response's."""
    return [item for item in told["output"] if item["type"] == kind]


def settled(client: httpx.Client, response_id: str) -> dict[str, Any]:
    """Return a response that is kept, once it is over; its shape is checked against the official client's."""
    path = f"{RESPONSES}/{response_id}"
    wait_until(lambda: client.get(path).json()["status"] not in ("queued", "in_progress"))
    document: dict[str, Any] = client.get(path).json()
    OpenAIResponse.model_validate(_described(document), strict=True)
    return document


def refusal(client: httpx.Client, status: int = 400, **fields: object) -> dict[str, Any]:
    """Return the error of a request that must be refused."""
    response = client.post(RESPONSES, json={"model": MODEL, "input": "Hi", **fields})
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def listed(client: httpx.Client, response_id: str, **query: object) -> dict[str, Any]:
    """Return the page of a response's input items."""
    response = client.get(f"{RESPONSES}/{response_id}/input_items", params=query)  # type: ignore[arg-type]
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


def assert_not_found(response: httpx.Response, response_id: str) -> None:
    """Hold an answer to be the 404 for a response that is not kept."""
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "response_not_found")
    assert error["message"] == f"Response with id '{response_id}' not found."


def stream(client: httpx.Client, given: object = "Hi", **fields: object) -> list[dict[str, Any]]:
    """Return the events of a streamed response; each one's shape is checked against the official client's."""
    response = client.post(RESPONSES, json={"model": MODEL, "input": given, "stream": True, **fields})
    events = events_of(response)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the events of an answer; each one's shape is checked against the official client's."""
    assert response.status_code == 200, response.text
    names = [line.removeprefix("event: ") for line in response.text.split("\n") if line.startswith("event: ")]
    bare = "\n".join(line for line in response.text.split("\n") if not line.startswith("event: "))
    events = sse_documents(httpx.Response(200, text=bare, headers=response.headers))
    assert [event["type"] for event in events] == names
    for event in events:
        if event["type"] == "keepalive":  # of OpenAI's server, not in its description
            assert event.keys() == {"type", "sequence_number"}
            continue
        described = {**event, "response": _described(event["response"])} if "response" in event else event
        _EVENT.validate_python(described, strict=True)
    return events


def _described(response: dict[str, Any]) -> dict[str, Any]:
    """Return the response without the code that OpenAI's server says and its description does not know."""
    error = response["error"]
    if error is None or error["code"] != "context_length_exceeded":
        return response
    return {**response, "error": {**error, "code": "invalid_prompt"}}

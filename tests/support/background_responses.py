"""Responses that are made in the background, for their tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from support.fake_model_server import FOREVER, HELLO, Pause
from support.responses_api import MODEL, RESPONSES, events_of, respond

SLOW = [*HELLO[:5], Pause(0.3), *HELLO[5:]]
ENDLESS = [*HELLO[:5], FOREVER]


def begin(client: httpx.Client, **fields: object) -> dict[str, Any]:
    """Begin a response in the background and return it as it is told."""
    told = respond(client, background=True, **fields)
    assert (told["background"], told["store"]) == (True, True)
    return told


def retrieved(client: httpx.Client, told: dict[str, Any]) -> dict[str, Any]:
    """Return the response as it is kept."""
    document: dict[str, Any] = client.get(f"{RESPONSES}/{told['id']}").json()
    return document


def cancelled(client: httpx.Client, told: dict[str, Any]) -> dict[str, Any]:
    """Cancel the response, and return it."""
    response = client.post(f"{RESPONSES}/{told['id']}/cancel")
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


@contextmanager
def streamed(client: httpx.Client, **fields: object) -> Iterator[Iterator[dict[str, Any]]]:
    """Begin a response in the background and yield its events as they come; then leave."""
    body = {"model": MODEL, "input": "Hi", "stream": True, "background": True, **fields}
    with client.stream("POST", RESPONSES, json=body) as response:
        assert response.status_code == 200
        yield (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: "))


def without_keepalives(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events that are of the response."""
    return [event for event in events if event["type"] != "keepalive"]


def resumed(client: httpx.Client, told: dict[str, Any], after: int | None = None) -> list[dict[str, Any]]:
    """Return the events of a response after one of them."""
    place = {} if after is None else {"starting_after": after}
    events = without_keepalives(events_of(client.get(f"{RESPONSES}/{told['id']}", params={"stream": True, **place})))
    first = 0 if after is None else after + 1
    assert [event["sequence_number"] for event in events] == list(range(first, first + len(events)))
    return events

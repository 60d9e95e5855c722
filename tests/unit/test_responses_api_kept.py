"""Responses that are kept: retrieved, deleted, and nobody else's."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from gptoss_client.keys import add_key
from support.fake_model_server import FOREVER, HELLO, FakeModelServer
from support.live_app import wait_until
from support.responses_api import (
    RESPONSES,
    WEATHER,
    assert_not_found,
    keeping_adapter,
    listed,
    refusal,
    respond,
    serving,
    stream,
)

url_and_server = keeping_adapter()


def test_response_when_it_is_retrieved_then_it_is_as_it_was_answered(
    client: httpx.Client, server: FakeModelServer
) -> None:
    whole = respond(client, "H\u00e9\u2028", instructions="\u2029", metadata={"k": "v"}, tools=[WEATHER])
    streamed = stream(client)[-1]["response"]
    for told in (whole, streamed):
        assert client.get(f"{RESPONSES}/{told['id']}").json() == told


def test_response_when_store_is_false_then_it_is_not_kept(client: httpx.Client) -> None:
    told = respond(client, store=False)
    assert told["store"] is False
    assert_not_found(client.get(f"{RESPONSES}/{told['id']}"), told["id"])
    assert refusal(client, previous_response_id=told["id"])["code"] == "previous_response_not_found"


def test_response_when_it_is_deleted_then_it_is_gone_with_its_items(client: httpx.Client) -> None:
    told = respond(client)
    path = f"{RESPONSES}/{told['id']}"
    assert client.delete(path).json() == {"id": told["id"], "object": "response", "deleted": True}
    for response in (
        client.get(path),
        client.delete(path),
        client.get(f"{path}/input_items"),
        client.post(f"{path}/cancel"),
    ):
        assert_not_found(response, told["id"])
    assert refusal(client, 404, input=[{"id": told["output"][1]["id"]}])["code"] == "item_not_found"


def test_response_when_one_that_it_continues_is_deleted_then_it_stays_but_cannot_be_continued(
    client: httpx.Client,
) -> None:
    first = respond(client)
    second = respond(client, "more", previous_response_id=first["id"])
    client.delete(f"{RESPONSES}/{first['id']}")
    assert client.get(f"{RESPONSES}/{second['id']}").status_code == 200
    error = refusal(client, previous_response_id=second["id"])
    assert (error["param"], error["code"]) == ("previous_response_id", "previous_response_not_found")
    assert error["message"] == f"Previous response with id '{first['id']}' not found."
    assert [item["content"][0]["text"] for item in listed(client, second["id"])["data"]] == ["more"]


def test_response_when_it_is_to_be_cancelled_then_400_says_why_not(client: httpx.Client) -> None:
    told = respond(client)
    response = client.post(f"{RESPONSES}/{told['id']}/cancel")
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "Cannot cancel a synchronous response."


def test_response_when_it_is_to_be_streamed_again_then_400_names_the_parameter(client: httpx.Client) -> None:
    response = client.get(f"{RESPONSES}/{respond(client)['id']}", params={"stream": True})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "stream"


@pytest.mark.parametrize(
    ("method", "path", "query", "param", "code"),
    [
        ("GET", "", {"starting_after": 3}, "starting_after", "invalid_value"),
        ("GET", "", {"include_obfuscation": True}, "include_obfuscation", "unsupported_parameter"),
        ("GET", "", {"include": "everything"}, "include", "invalid_value"),
        ("GET", "", {"include[]": "everything"}, "include", "invalid_value"),
        ("GET", "", {"limit": 3}, "limit", "unknown_parameter"),
        ("GET", "/input_items", {"before": "x"}, "before", "unknown_parameter"),
        ("GET", "/input_items", {"include": "everything"}, "include", "invalid_value"),
        ("POST", "/cancel", {"force": True}, "force", "unknown_parameter"),
        ("DELETE", "", {"force": True}, "force", "unknown_parameter"),
    ],
)
def test_query_when_it_is_not_understood_then_400_names_the_parameter(
    client: httpx.Client, method: str, path: str, query: dict[str, Any], param: str, code: str
) -> None:
    url = f"{RESPONSES}/{respond(client)['id']}"
    response = client.request(method, f"{url}{path}", params=query)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)
    assert client.get(url, params={"api-version": "2026-01-01"}).status_code == 200  # Azure's clients say it always
    assert client.get(url, params={"beta": "true"}).status_code == 200  # client.beta.responses does


def test_what_is_kept_when_another_key_asks_then_it_is_not_there(tmp_path: Path) -> None:
    server = FakeModelServer(script=[*HELLO[:5], FOREVER])
    names = {name: add_key(tmp_path / "keys", name, None) for name in ("alice", "bob")}
    with serving(tmp_path / "r.sqlite", server, keys_path=str(tmp_path / "keys")) as url, ExitStack() as stack:
        alice, bob = (
            stack.enter_context(httpx.Client(base_url=url, headers={"Authorization": f"Bearer {names[name]}"}))
            for name in ("alice", "bob")
        )
        begun = respond(alice, background=True)["id"]
        wait_until(lambda: bool(server.samplings))
        server.script = HELLO
        told = respond(alice)
        for response_id in (begun, told["id"]):
            for path in ("", "/input_items", "?stream=true"):
                assert_not_found(bob.get(f"{RESPONSES}/{response_id}{path}"), response_id)
            assert_not_found(bob.delete(f"{RESPONSES}/{response_id}"), response_id)
            assert_not_found(bob.post(f"{RESPONSES}/{response_id}/cancel"), response_id)
            assert refusal(bob, 400, previous_response_id=response_id)["code"] == "previous_response_not_found"
        item = {"type": "item_reference", "id": told["output"][-1]["id"]}
        assert refusal(bob, 404, input=[item])["code"] == "item_not_found"
        assert respond(alice, [item, {"role": "user", "content": "Go on"}])["status"] == "completed"
        assert alice.post(f"{RESPONSES}/{begun}/cancel").json()["status"] == "cancelled"

"""/v1/conversations: made, described, listed page by page, emptied, deleted; what is refused."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from gptoss_adapter.schemas.carried_text import reasoning_of
from gptoss_client.keys import add_key
from support.conversations_api import CONVERSATIONS, created, items, texts, user
from support.fake_model_server import FOREVER, FakeModelServer
from support.live_app import wait_until
from support.responses_api import MODEL, RESPONSES, keeping_adapter, respond, serving

UNKNOWN = "conv_0123456789abcdef"


url_and_server = keeping_adapter()


def added(client: httpx.Client, conversation: str, *given: dict[str, Any], **query: object) -> list[dict[str, Any]]:
    path = f"{CONVERSATIONS}/{conversation}/items"
    response = client.post(path, json={"items": given}, params=query)  # type: ignore[arg-type]
    assert response.status_code == 200, response.text
    data: list[dict[str, Any]] = response.json()["data"]
    return data


def error_of(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


# --- conversations --------------------------------------------------------------------------------------------------


def test_conversation_when_it_is_made_then_it_is_told_described_and_deleted(client: httpx.Client) -> None:
    told = client.post(CONVERSATIONS, json={"metadata": {"topic": "tea"}}).json()
    path = f"{CONVERSATIONS}/{told['id']}"
    assert told["id"].startswith("conv_")
    assert told == {
        "id": told["id"],
        "object": "conversation",
        "created_at": told["created_at"],
        "metadata": {"topic": "tea"},
    }
    assert client.get(path).json() == told
    assert client.post(path, json={"metadata": {"mood": "good"}}).json() == told | {"metadata": {"mood": "good"}}
    assert client.get(path).json()["metadata"] == {"mood": "good"}
    assert client.post(path, json={"metadata": None}).json()["metadata"] == {}
    assert client.delete(path).json() == {"id": told["id"], "object": "conversation.deleted", "deleted": True}
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "sent", [{}, {"json": {}}, {"json": {"items": None, "metadata": None}}, {"json": {"items": []}}]
)
def test_conversation_when_nothing_is_said_of_it_then_it_is_empty(client: httpx.Client, sent: dict[str, Any]) -> None:
    told = client.post(CONVERSATIONS, **sent).json()
    assert told["metadata"] == {}
    listed = client.get(f"{CONVERSATIONS}/{told['id']}/items").json()
    assert listed == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("POST", "", {"metadata": {}}),
        ("DELETE", "", None),
        ("GET", "/items", None),
        ("POST", "/items", {"items": [user("Hi")]}),
        ("GET", "/items/msg_1", None),
        ("DELETE", "/items/msg_1", None),
    ],
)
def test_conversation_when_there_is_none_then_404_in_openais_words(
    client: httpx.Client, method: str, path: str, body: dict[str, Any] | None
) -> None:
    error = error_of(client.request(method, f"{CONVERSATIONS}/{UNKNOWN}{path}", json=body), 404)
    assert error == {
        "message": f"Conversation with id '{UNKNOWN}' not found.",
        "type": "invalid_request_error",
        "param": "conversation_id",
        "code": "conversation_not_found",
    }


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        ("", {"metadata": {f"k{number}": "v" for number in range(17)}}, "metadata", "invalid_value"),
        ("", {"metadata": {"k": "v" * 513}}, "metadata.k", "invalid_value"),
        ("", {"title": "mine"}, "title", "unknown_parameter"),
        ("", {"items": [user("Hi")] * 21}, "items", "invalid_value"),
        ("", {"items": [{"type": "compaction_trigger"}]}, "items[0]", "invalid_value"),
        ("", {"items": [{"type": "function_call", "call_id": "c"}]}, "items[0].name", "missing_required_parameter"),
        ("", {"items": [{"id": "msg_1", "type": "item_reference"}]}, "items", "item_not_found"),
        ("", {"items": [user("Hi", id="m"), user("Hi", id="m")]}, "items", "duplicate_item"),
        ("/{id}", {}, "metadata", "missing_required_parameter"),
        ("/{id}/items", {}, "items", "missing_required_parameter"),
        ("/{id}/items", {"items": [user("Hi")] * 21}, "items", "invalid_value"),
        ("/{id}/items?limit=3", {"items": [user("Hi")]}, "limit", "unknown_parameter"),
    ],
)
def test_body_when_it_cannot_be_taken_then_the_error_names_the_field(
    client: httpx.Client, path: str, body: dict[str, Any], param: str, code: str
) -> None:
    response = client.post(CONVERSATIONS + path.format(id=created(client)), json=body)
    error = error_of(response, 404 if code == "item_not_found" else 400)
    assert (error["param"], error["code"]) == (param, code)


# --- items ----------------------------------------------------------------------------------------------------------


def test_items_when_they_are_added_then_they_are_told_whole_and_stand_behind_the_others(client: httpx.Client) -> None:
    conversation = created(client, items=[user("one")])
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": "4"}
    told = added(client, conversation, call, output, user("two"))
    assert [item["type"] for item in told] == ["function_call", "function_call_output", "message"]
    assert all(item["id"] and item["status"] == "completed" for item in told)
    assert items(client, conversation)[1:] == told
    assert items(client, conversation)[0]["content"] == [{"type": "input_text", "text": "one"}]


def test_items_when_their_text_carries_logprobs_then_these_are_neither_kept_nor_told(client: httpx.Client) -> None:
    conversation = created(client)
    part = {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": [{}] * 9}
    [told] = added(client, conversation, {"type": "message", "role": "assistant", "content": [part]})
    assert items(client, conversation) == [told]
    assert told["content"][0]["logprobs"] == []


def test_items_when_they_are_listed_then_the_newest_comes_first_page_by_page(client: httpx.Client) -> None:
    conversation = created(client, items=[user(str(number)) for number in range(5)])
    ids = [item["id"] for item in items(client, conversation)]
    path = f"{CONVERSATIONS}/{conversation}/items"
    assert [item["id"] for item in client.get(path).json()["data"]] == ids[::-1]
    page = client.get(path, params={"limit": 2, "after": ids[3]}).json()
    assert [item["id"] for item in page["data"]] == [ids[2], ids[1]]
    assert (page["first_id"], page["last_id"], page["has_more"]) == (ids[2], ids[1], True)
    last = client.get(path, params={"limit": 2, "after": ids[2], "order": "asc"}).json()
    assert ([item["id"] for item in last["data"]], last["has_more"]) == ([ids[3], ids[4]], False)
    for query, param in [({"limit": 101}, "limit"), ({"order": "up"}, "order"), ({"after": "msg_1"}, "after")]:
        assert error_of(client.get(path, params=query))["param"] == param


def test_items_when_they_are_long_then_a_page_ends_early_and_says_that_there_are_more(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "r.sqlite", FakeModelServer(), max_body_bytes=4096) as url,
        httpx.Client(base_url=url) as client,
    ):
        conversation = created(client)
        for _ in range(4):
            added(client, conversation, user("x" * 3000))
        path = f"{CONVERSATIONS}/{conversation}/items"
        page = client.get(path).json()
        assert (len(page["data"]), page["has_more"]) == (2, True)
        rest = client.get(path, params={"after": page["last_id"]}).json()
        assert (len(rest["data"]), rest["has_more"]) == (2, False)
        error = error_of(client.post(RESPONSES, json={"model": MODEL, "input": "Hi", "conversation": conversation}))
        assert (error["param"], error["code"]) == ("conversation", "invalid_value")


def test_item_when_it_is_taken_out_then_the_others_stay_and_the_conversation_is_told(client: httpx.Client) -> None:
    conversation = created(client, items=[user("one"), user("two"), user("three")], metadata={"k": "v"})
    two = items(client, conversation)[1]
    path = f"{CONVERSATIONS}/{conversation}/items/{two['id']}"
    assert client.get(path).json() == two
    assert client.delete(path).json() == client.get(f"{CONVERSATIONS}/{conversation}").json()
    assert texts(client, conversation) == ["one", "three"]
    for response in (client.get(path), client.delete(path)):
        error = error_of(response, 404)
        assert (error["message"], error["param"]) == (f"Item with id '{two['id']}' not found.", "item_id")


@pytest.mark.parametrize("item_id", ["a/b", "/", "a b", "é", "x\0y", "%2F", "a?b#c"])
def test_item_when_its_client_named_it_by_any_text_then_it_is_found_and_taken_out_by_that(
    client: httpx.Client, item_id: str
) -> None:
    conversation = created(client, items=[user("one", id=item_id)])
    path = f"{CONVERSATIONS}/{conversation}/items/{quote(item_id, safe='')}"
    assert client.get(path).json()["id"] == item_id
    assert client.delete(path).json()["id"] == conversation
    assert items(client, conversation) == []


def test_item_when_its_id_is_in_the_conversation_already_then_400_and_none_is_added(client: httpx.Client) -> None:
    conversation = created(client, items=[user("one", id="msg_mine")])
    path = f"{CONVERSATIONS}/{conversation}/items"
    error = error_of(client.post(path, json={"items": [user("two"), user("three", id="msg_mine")]}))
    assert (error["param"], error["code"]) == ("items", "duplicate_item")
    assert texts(client, conversation) == ["one"]


def test_item_when_it_is_referred_to_then_a_copy_is_added_whatever_held_it(client: httpx.Client) -> None:
    answered = respond(client)["output"][-1]
    said = items(client, created(client, items=[user("one")]))[0]
    references = [{"type": "item_reference", "id": one["id"]} for one in (said, answered)]
    conversation = created(client, items=references)
    assert items(client, conversation) == [said, answered]


def test_reasoning_when_it_is_to_be_carried_then_it_is_told_again(client: httpx.Client) -> None:
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
    conversation = created(client)
    asked = {"include[]": "reasoning.encrypted_content"}
    [told] = added(client, conversation, thought, **asked)
    one = client.get(f"{CONVERSATIONS}/{conversation}/items/{told['id']}", params=asked).json()
    assert one == told == items(client, conversation, **asked)[0]
    assert reasoning_of(told.pop("encrypted_content")) == "Hm."
    assert items(client, conversation) == [told]


# --- whose ----------------------------------------------------------------------------------------------------------


def test_conversation_when_another_key_asks_then_it_is_not_there(tmp_path: Path) -> None:
    keys = {name: add_key(tmp_path / "keys", name, None) for name in ("alice", "bob")}
    server = FakeModelServer()
    with serving(tmp_path / "r.sqlite", server, keys_path=str(tmp_path / "keys")) as url, ExitStack() as stack:
        alice, bob = (
            stack.enter_context(httpx.Client(base_url=url, headers={"Authorization": f"Bearer {keys[name]}"}))
            for name in ("alice", "bob")
        )
        conversation = created(alice, items=[user("a secret")])
        item_id = items(alice, conversation)[0]["id"]
        path = f"{CONVERSATIONS}/{conversation}"
        for method, under, body in [
            ("GET", "", None),
            ("POST", "", {"metadata": {}}),
            ("DELETE", "", None),
            ("GET", "/items", None),
            ("POST", "/items", {"items": [user("Hi")]}),
            ("GET", f"/items/{item_id}", None),
            ("DELETE", f"/items/{item_id}", None),
        ]:
            assert error_of(bob.request(method, path + under, json=body), 404)["code"] == "conversation_not_found"
        asked = {"model": MODEL, "input": "Hi", "conversation": conversation}
        assert error_of(bob.post(RESPONSES, json=asked), 404)["code"] == "conversation_not_found"
        stolen = {"model": MODEL, "input": [{"type": "item_reference", "id": item_id}]}
        assert error_of(bob.post(RESPONSES, json=stolen), 404)["code"] == "item_not_found"
        assert texts(alice, conversation) == ["a secret"]
        assert httpx.get(f"{url}{path}").status_code == 401


def test_key_when_it_has_as_many_requests_as_it_may_then_it_still_works_on_its_conversations(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys", "alice", None)
    server = FakeModelServer(script=[FOREVER])
    settings = {"keys_path": str(tmp_path / "keys"), "max_concurrency_per_key": 1}
    with (
        serving(tmp_path / "r.sqlite", server, **settings) as url,
        httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as client,
    ):
        respond(client, background=True)
        wait_until(lambda: bool(server.samplings))
        assert client.post(RESPONSES, json={"model": MODEL, "input": "Hi"}).status_code == 429
        assert texts(client, created(client, items=[user("one")])) == ["one"]

"""Responses that go on from a conversation: what they see, what they add to it and when, who has to wait."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from gptoss_adapter.errors import ServiceUnavailableError
from gptoss_adapter.responses.keeping.progress import LEASE_S
from gptoss_backend.contract import ChatMessage, FinishReason, Role, ToolCall
from gptoss_backend.harmony.prompt import render_prompt
from gptoss_client.keys import add_key
from support.conversations_api import CONVERSATIONS, created, items, texts, user
from support.fake_adapter import adapter_process
from support.fake_model_server import FOREVER, HELLO, FakeModelServer, Pause, answer, token_ids
from support.live_app import wait_until
from support.responses_api import (
    CALL,
    MODEL,
    RESPONSES,
    WEATHER,
    keeping_adapter,
    refusal,
    respond,
    serving,
    settled,
    stream,
)

USER = ChatMessage(Role.USER, "Hi")
ANSWER = ChatMessage(Role.ASSISTANT, "Hello!", "Easy.", phase="final_answer")
TURN = ["Hi", "Easy.", "Hello!"]
LOCKED = "Another process is currently operating on this conversation. Please retry in a few seconds."


url_and_server = keeping_adapter(max_messages=40)


@pytest.fixture
def conversation(client: httpx.Client) -> str:
    return created(client)


def going_on(conversation: str, **fields: object) -> dict[str, Any]:
    return {"model": MODEL, "input": "Hi", "conversation": conversation, **fields}


def is_locked(client: httpx.Client, conversation: str) -> bool:
    """Say whether a response holds the conversation, by trying to add nothing to it."""
    response = client.post(f"{CONVERSATIONS}/{conversation}/items", json={"items": []})
    assert response.status_code == 200 or response.json()["error"]["code"] == "conversation_locked"
    return response.status_code != 200


# --- what is seen and added -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields", [{}, {"store": False}, {"stream": True}, {"stream": True, "store": False}, {"background": True}]
)
def test_conversation_when_responses_go_on_from_it_then_each_sees_it_all_and_adds_its_turn(
    client: httpx.Client, server: FakeModelServer, conversation: str, fields: dict[str, Any]
) -> None:
    for spelled in (conversation, {"id": conversation}):
        if fields.get("stream"):
            told = stream(client, conversation=spelled, **fields)[-1]["response"]
        else:
            told = respond(client, conversation=spelled, **fields)
        if fields.get("background"):
            told = settled(client, told["id"])
        assert (told["status"], told["conversation"]) == ("completed", {"id": conversation})
        assert not is_locked(client, conversation)
    assert [chat.messages for chat in server.chats] == [(USER,), (USER, ANSWER, USER)]
    assert texts(client, conversation) == TURN * 2
    if fields.get("store") is not False:
        assert client.get(f"{RESPONSES}/{told['id']}").json() == told
        assert items(client, conversation)[-2:] == told["output"]


def test_response_when_it_goes_on_from_no_conversation_then_it_says_so(client: httpx.Client) -> None:
    told = respond(client)
    assert told["conversation"] is None
    assert client.get(f"{RESPONSES}/{told['id']}").json() == told


def test_conversation_when_it_begins_with_items_then_the_model_sees_them_and_the_instructions_are_not_added(
    client: httpx.Client, server: FakeModelServer
) -> None:
    conversation = created(client, items=[user("Say hello.", role="developer")])
    respond(client, conversation=conversation, instructions="Be brief.")
    respond(client, conversation=conversation)
    developer = ChatMessage(Role.DEVELOPER, "Say hello.")
    assert server.chats[0].messages == (ChatMessage(Role.SYSTEM, "Be brief."), developer, USER)
    assert server.chats[1].messages == (developer, USER, ANSWER, USER)


def test_conversation_when_it_goes_on_without_input_then_the_model_answers_what_is_there(
    client: httpx.Client, server: FakeModelServer
) -> None:
    conversation = created(client, items=[user("Hi")])
    answered = client.post(RESPONSES, json={"model": MODEL, "conversation": conversation})
    assert answered.status_code == 200
    assert server.chats[0].messages == (USER,)
    assert texts(client, conversation) == TURN
    error = client.post(RESPONSES, json={"model": MODEL, "conversation": created(client)}).json()["error"]
    assert (error["param"], error["message"]) == ("input", "'input' holds no items.")


def test_turn_when_the_next_one_comes_then_its_prompt_begins_with_the_tokens_of_both(
    client: httpx.Client, server: FakeModelServer, conversation: str
) -> None:
    called = token_ids(CALL)
    server.scripts = [answer(CALL), HELLO]
    first = respond(client, "Weather?", conversation=conversation, tools=[WEATHER])
    output = {"type": "function_call_output", "call_id": first["output"][1]["call_id"], "output": "Snow"}
    respond(client, [output], conversation=conversation, tools=[WEATHER])
    prompts = [render_prompt(chat) for chat in server.chats]
    # what the engine has computed: the prompt and the answer, but for the token that ended it
    held = [*prompts[0], *called[:-1]]
    assert prompts[1][: len(held)] == held


def test_call_when_its_output_is_missing_then_400_and_once_it_is_sent_the_conversation_goes_on(
    client: httpx.Client, server: FakeModelServer, conversation: str
) -> None:
    server.scripts = [answer(CALL)]
    call = respond(client, "Weather?", conversation=conversation, tools=[WEATHER])["output"][1]
    error = refusal(client, conversation=conversation)
    assert error["message"] == f"No tool output found for function call {call['call_id']}."
    assert not is_locked(client, conversation)
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "Snow"}
    respond(client, [output], conversation=conversation)
    *_, called, result = server.chats[-1].messages
    assert (called.reasoning, called.tool_calls) == (
        "Look it up.",
        (ToolCall(call["call_id"], "weather", '{"city":"Oslo"}'),),
    )
    assert result.content == "Snow"


def test_input_when_an_item_of_it_is_in_the_conversation_already_then_400_and_nothing_is_added(
    client: httpx.Client, server: FakeModelServer, conversation: str
) -> None:
    message = respond(client, conversation=conversation)["output"][1]
    for given in ([message], [{"type": "item_reference", "id": message["id"]}], [user("a", id="m"), user("b", id="m")]):
        error = refusal(client, input=given, conversation=conversation)
        assert (error["param"], error["code"]) == ("input", "duplicate_item")
    assert texts(client, conversation) == TURN
    respond(client, [{"type": "item_reference", "id": message["id"]}, user("Hi")], conversation=created(client))
    assert [one.content for one in server.chats[-1].messages] == ["Hello!", "Hi"]


def test_tokens_when_those_of_a_conversation_are_counted_then_nothing_is_added_to_it(
    client: httpx.Client, server: FakeModelServer, conversation: str
) -> None:
    respond(client, conversation=conversation)
    counted = client.post(f"{RESPONSES}/input_tokens", json=going_on(conversation))
    assert counted.json()["object"] == "response.input_tokens"
    assert server.chats[-1].messages == (USER, ANSWER, USER)
    assert texts(client, conversation) == TURN


def test_conversation_when_it_has_grown_too_long_then_400(client: httpx.Client) -> None:
    conversation = created(client, items=[user("Hi")] * 20)
    client.post(f"{CONVERSATIONS}/{conversation}/items", json={"items": [user("Hi")] * 20})
    error = refusal(client, conversation=conversation)
    assert (error["param"], error["message"]) == ("input", "The conversation has 41 items; this server takes 40.")


def test_answer_when_it_is_cut_then_it_is_added_all_the_same(
    client: httpx.Client, server: FakeModelServer, conversation: str
) -> None:
    server.script = answer("<|channel|>final<|message|>Hel", reason=FinishReason.LENGTH)
    assert respond(client, conversation=conversation, max_output_tokens=4)["status"] == "incomplete"
    assert texts(client, conversation) == ["Hi", "Hel"]


# --- what is not added ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"store": False}, {"background": True}])
def test_response_when_it_fails_then_nothing_is_added_and_the_conversation_is_free(
    client: httpx.Client, server: FakeModelServer, conversation: str, fields: dict[str, Any]
) -> None:
    server.scripts = [[*HELLO[:5], ServiceUnavailableError("Gone.")]]
    told = client.post(RESPONSES, json=going_on(conversation, **fields))
    if fields.get("background"):
        ended = settled(client, told.json()["id"])
        assert (ended["status"], ended["conversation"]) == ("failed", {"id": conversation})
    wait_until(lambda: not is_locked(client, conversation))
    assert items(client, conversation) == []
    respond(client, conversation=conversation)
    assert texts(client, conversation) == TURN


@pytest.mark.parametrize("stored", [True, False])
def test_stream_when_its_client_leaves_then_nothing_is_added_and_the_conversation_is_free(
    client: httpx.Client, server: FakeModelServer, conversation: str, stored: bool
) -> None:
    server.scripts = [[*HELLO[:-2], FOREVER]]
    body = going_on(conversation, stream=True, store=stored)
    with client.stream("POST", RESPONSES, json=body) as response:
        lines = response.iter_lines()
        next(lines)
        assert is_locked(client, conversation)
    wait_until(lambda: not is_locked(client, conversation))
    assert items(client, conversation) == []


def test_answer_when_its_client_leaves_before_it_then_nothing_is_added_and_the_conversation_is_free(
    client: httpx.Client, server: FakeModelServer, conversation: str
) -> None:
    server.scripts = [[*HELLO[:-2], FOREVER]]
    with pytest.raises(httpx.ReadTimeout):
        client.post(RESPONSES, json=going_on(conversation), timeout=0.3)
    wait_until(lambda: not is_locked(client, conversation))
    assert server.streams[0].abandoned
    assert items(client, conversation) == []


def test_background_when_it_is_cancelled_then_nothing_is_added_and_the_conversation_is_free(
    client: httpx.Client, server: FakeModelServer, conversation: str
) -> None:
    server.scripts = [[*HELLO[:-2], FOREVER]]
    told = respond(client, conversation=conversation, background=True)
    assert is_locked(client, conversation)
    assert client.post(f"{RESPONSES}/{told['id']}/cancel").json()["status"] == "cancelled"
    assert not is_locked(client, conversation)
    assert items(client, conversation) == []


@pytest.mark.parametrize("stored", [True, False])
def test_conversation_when_it_is_deleted_meanwhile_then_the_answer_is_given_and_says_that_it_belongs_to_none(
    client: httpx.Client, server: FakeModelServer, conversation: str, stored: bool
) -> None:
    server.script = [*HELLO[:5], Pause(0.3), *HELLO[5:]]
    with client.stream("POST", RESPONSES, json=going_on(conversation, stream=True, store=stored)) as response:
        lines = response.iter_lines()
        next(lines)
        assert client.delete(f"{CONVERSATIONS}/{conversation}").status_code == 200
        *_, last = (line for line in lines if line.startswith("data: "))
    assert '"status":"completed"' in last
    assert '"conversation":null' in last


def test_response_when_its_store_fails_then_it_says_that_it_belongs_to_no_conversation(
    client: httpx.Client, server: FakeModelServer, conversation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("no space")

    monkeypatch.setattr("gptoss_adapter.responses.keeping.conversation_tables.Conversations.add", fail)
    told = respond(client, conversation=conversation)
    assert (told["status"], told["store"], told["conversation"]) == ("completed", False, None)
    monkeypatch.undo()
    assert items(client, conversation) == []


# --- one at a time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"stream": True}, {"stream": True, "store": False}, {"background": True}])
def test_conversation_when_a_response_goes_on_from_it_then_others_are_told_to_wait(
    client: httpx.Client, server: FakeModelServer, conversation: str, fields: dict[str, Any]
) -> None:
    server.script = [*HELLO[:5], Pause(0.5), *HELLO[5:]]
    with client.stream("POST", RESPONSES, json=going_on(conversation, **fields)) as response:
        lines = response.iter_lines()
        next(lines)
        for second in ({}, {"stream": True}, {"background": True}, {"store": False}):
            error = refusal(client, conversation=conversation, **second)
            assert error == {
                "message": LOCKED,
                "type": "invalid_request_error",
                "param": "conversation",
                "code": "conversation_locked",
            }
        path = f"{CONVERSATIONS}/{conversation}"
        assert client.post(f"{path}/items", json={"items": [user("now")]}).status_code == 400
        assert client.delete(f"{path}/items/msg_1").json()["error"]["code"] == "conversation_locked"
        assert client.post(path, json={"metadata": {"k": "v"}}).status_code == 200  # which is nothing of its items
        assert items(client, conversation) == []
        assert list(lines) or "background" in fields
    wait_until(lambda: not is_locked(client, conversation))
    assert texts(client, conversation) == TURN


def test_conversation_when_many_go_on_from_it_at_once_then_each_turn_is_whole_or_refused(
    client: httpx.Client, server: FakeModelServer, conversation: str
) -> None:
    server.script = [*HELLO[:5], Pause(0.02), *HELLO[5:]]
    with httpx.Client(base_url=client.base_url, limits=httpx.Limits(max_connections=8)) as many:
        answered = list(_together(many, conversation, 24))
    kept = [text for status, text in answered if status == 200]
    assert kept
    assert {status for status, _ in answered} <= {200, 400}
    said = texts(client, conversation)
    assert sorted(said[::3]) == sorted(kept)
    assert (said[1::3], said[2::3]) == (["Easy."] * len(kept), ["Hello!"] * len(kept))


def _together(client: httpx.Client, conversation: str, count: int) -> Iterator[tuple[int, str]]:
    def ask(number: int) -> tuple[int, str]:
        body = going_on(conversation, input=f"number {number}", store=number % 2 == 0)
        return client.post(RESPONSES, json=body, timeout=20).status_code, f"number {number}"

    with ThreadPoolExecutor(8) as pool:
        yield from pool.map(ask, range(count))


def test_conversation_when_another_adapter_of_the_same_file_goes_on_from_it_then_it_is_locked_until_that_one_is_gone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "r.sqlite"
    with serving(path, FakeModelServer()) as url, httpx.Client(base_url=url) as here:
        conversation = created(here)
        with (
            adapter_process("endless", ADAPTER__RESPONSES_PATH=path) as one,
            httpx.Client(base_url=one.url) as there,
        ):
            respond(there, conversation=conversation, background=True)
            assert refusal(here, conversation=conversation)["code"] == "conversation_locked"
            one.process.kill()
            one.process.wait()
        with closing(sqlite3.connect(path)) as connection, connection:  # time passes
            [(until,)] = connection.execute("SELECT leased_until FROM conversation_holds")
            connection.execute("UPDATE conversation_holds SET leased_until = leased_until - ?", (LEASE_S,))
        assert 0 < until - time.time() <= LEASE_S
        respond(here, conversation=conversation)
        assert texts(here, conversation) == TURN


def test_hold_when_a_response_takes_longer_than_a_lease_then_it_is_renewed(
    client: httpx.Client, server: FakeModelServer, conversation: str, store: Path
) -> None:
    def leased_until() -> float:
        [(until,)] = connection.execute(
            "SELECT leased_until FROM conversation_holds WHERE conversation_id = ?", (conversation,)
        )
        return float(until)

    server.scripts = [[*HELLO[:-2], FOREVER]]
    with closing(sqlite3.connect(store)) as connection:
        told = respond(client, conversation=conversation, background=True)
        first = leased_until()
        wait_until(lambda: leased_until() > first)
    client.post(f"{RESPONSES}/{told['id']}/cancel")


# --- beside the other ways to go on ---------------------------------------------------------------------------------


def test_response_of_a_conversation_when_it_is_continued_by_its_id_then_the_model_sees_what_it_was_made_from(
    client: httpx.Client, server: FakeModelServer, conversation: str
) -> None:
    respond(client, conversation=conversation)
    second = respond(client, "two", conversation=conversation)
    respond(client, "three", conversation=conversation)
    aside = respond(client, "aside", previous_response_id=second["id"])
    assert aside["conversation"] is None
    seen = ["Hi", "Hello!", "two", "Hello!", "aside"]
    assert [message.content for message in server.chats[-1].messages] == seen
    listed = client.get(f"{RESPONSES}/{second['id']}/input_items", params={"order": "asc"}).json()["data"]
    assert [item["content"][0]["text"] for item in listed] == [*TURN, "two"]
    assert texts(client, conversation) == [*TURN, "two", *TURN[1:], "three", *TURN[1:]]


def test_response_of_a_conversation_when_that_is_deleted_then_it_stays_but_cannot_be_continued(
    client: httpx.Client, conversation: str
) -> None:
    told = respond(client, conversation=conversation)
    client.delete(f"{CONVERSATIONS}/{conversation}")
    assert client.get(f"{RESPONSES}/{told['id']}").json() == told
    error = refusal(client, previous_response_id=told["id"])
    assert error["message"] == f"Conversation with id '{conversation}' not found."
    assert (error["param"], error["code"]) == ("previous_response_id", "previous_response_not_found")
    [own] = client.get(f"{RESPONSES}/{told['id']}/input_items").json()["data"]
    assert own["content"][0]["text"] == "Hi"


def test_response_of_a_conversation_when_it_is_deleted_then_its_items_stay_there_and_are_found(
    client: httpx.Client, server: FakeModelServer, conversation: str
) -> None:
    told = respond(client, conversation=conversation)
    client.delete(f"{RESPONSES}/{told['id']}")
    assert texts(client, conversation) == TURN
    respond(client, [{"type": "item_reference", "id": told["output"][1]["id"]}, user("Hi")])
    assert server.chats[-1].messages == (ChatMessage(Role.ASSISTANT, "Hello!", phase="final_answer"), USER)


def test_response_of_a_conversation_when_it_is_deleted_while_it_streams_then_its_turn_is_added_all_the_same(
    client: httpx.Client, server: FakeModelServer, conversation: str
) -> None:
    server.script = [*HELLO[:5], Pause(0.3), *HELLO[5:]]
    with client.stream("POST", RESPONSES, json=going_on(conversation, stream=True)) as response:
        events = (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: "))
        told = next(events)["response"]
        client.delete(f"{RESPONSES}/{told['id']}")
        *_, last = events
    assert (last["response"]["store"], last["response"]["conversation"]) == (False, {"id": conversation})
    assert texts(client, conversation) == TURN


def test_stream_when_a_key_is_asked_for_then_its_turn_is_added_to_its_own_conversation(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys", "alice", None)
    with (
        serving(tmp_path / "r.sqlite", FakeModelServer(), keys_path=str(tmp_path / "keys")) as url,
        httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as client,
    ):
        conversation = created(client)
        stream(client, conversation=conversation)
        settled(client, respond(client, conversation=conversation, background=True)["id"])
        assert texts(client, conversation) == TURN * 2

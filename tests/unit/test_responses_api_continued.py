"""Responses that continue others, or refer to their items: what the model sees, and how much may be read."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from gptoss_adapter.responses.keeping.database import ResponseDatabase
from gptoss_adapter.responses.keeping.store import ResponseStore
from gptoss_backend.contract import ChatMessage, Role, ToolCall
from support.fake_model_server import FakeModelServer, answer
from support.responses_api import (
    CALL,
    MODEL,
    RESPONSES,
    WEATHER,
    keeping_adapter,
    listed,
    refusal,
    respond,
    serving,
    stream,
)

USER = ChatMessage(Role.USER, "Hi")
ANSWER = ChatMessage(Role.ASSISTANT, "Hello!", "Easy.", phase="final_answer")
url_and_server = keeping_adapter(max_messages=40)


@pytest.mark.parametrize("streamed", [False, True])
def test_response_when_it_continues_another_then_the_model_sees_all_of_it(
    client: httpx.Client, server: FakeModelServer, streamed: bool
) -> None:
    first = stream(client)[-1]["response"] if streamed else respond(client)
    second = respond(client, previous_response_id=first["id"])
    third = respond(client, previous_response_id=second["id"])
    assert third["previous_response_id"] == second["id"]
    assert server.chats[2].messages == (USER, ANSWER, USER, ANSWER, USER)


def test_instructions_when_a_response_is_continued_then_only_its_own_hold(
    client: httpx.Client, server: FakeModelServer
) -> None:
    first = respond(client, instructions="Be brief.")
    respond(client, previous_response_id=first["id"], instructions="Be long.")
    respond(client, previous_response_id=first["id"])
    assert server.chats[1].messages == (ChatMessage(Role.SYSTEM, "Be long."), USER, ANSWER, USER)
    assert server.chats[2].messages == (USER, ANSWER, USER)


def test_call_when_only_its_output_is_sent_then_the_model_sees_its_reasoning_the_call_and_the_output(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer(CALL)
    first = respond(client, "Weather?", tools=[WEATHER])
    call_id = first["output"][1]["call_id"]
    output = {"type": "function_call_output", "call_id": call_id, "output": "Snow"}
    respond(client, [output], previous_response_id=first["id"], tools=[WEATHER])
    assert server.chats[1].messages == (
        ChatMessage(Role.USER, "Weather?"),
        ChatMessage(Role.ASSISTANT, None, "Look it up.", (ToolCall(call_id, "weather", '{"city":"Oslo"}'),)),
        ChatMessage(Role.TOOL, "Snow", tool_call_id=call_id),
    )


def test_call_when_it_is_continued_without_its_output_then_400_names_it(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer(CALL)
    first = respond(client, tools=[WEATHER])
    error = refusal(client, previous_response_id=first["id"])
    assert error["param"] == "input"
    assert first["output"][1]["call_id"] in error["message"]


def test_output_when_it_is_sent_back_as_input_then_the_model_sees_the_same(
    client: httpx.Client, server: FakeModelServer
) -> None:
    first = respond(client)
    respond(client, "Hi", previous_response_id=first["id"])
    respond(client, [{"role": "user", "content": "Hi"}, *first["output"], {"role": "user", "content": "Hi"}])
    assert server.chats[1].messages == server.chats[2].messages == (USER, ANSWER, USER)


def test_item_when_it_is_referred_to_then_the_model_sees_it(client: httpx.Client, server: FakeModelServer) -> None:
    first = respond(client)
    reasoning, message = first["output"]
    [given] = listed(client, first["id"])["data"]
    references = [{"type": "item_reference", "id": given["id"]}, {"id": reasoning["id"]}, {"id": message["id"]}]
    respond(client, [*references, {"role": "user", "content": "Hi"}])
    assert server.chats[1].messages == (USER, ANSWER, USER)


def test_item_when_its_client_has_named_it_then_nobody_is_given_it_by_that_name(client: httpx.Client) -> None:
    respond(client, [{"id": "msg_1", "role": "user", "content": "a secret"}])
    refused = client.post(RESPONSES, json={"model": MODEL, "input": [{"type": "item_reference", "id": "msg_1"}]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "item_not_found")
    assert "secret" not in refused.text


def test_response_when_it_is_continued_without_input_then_the_model_goes_on(
    client: httpx.Client, server: FakeModelServer
) -> None:
    first = respond(client)
    answered = client.post(RESPONSES, json={"model": MODEL, "previous_response_id": first["id"]})
    assert answered.status_code == 200
    assert server.chats[1].messages == (USER, ANSWER)


def test_response_when_it_is_continued_twice_then_the_branches_do_not_see_each_other(
    client: httpx.Client, server: FakeModelServer
) -> None:
    first = respond(client)
    respond(client, "one", previous_response_id=first["id"])
    respond(client, "two", previous_response_id=first["id"])
    assert [message.content for message in server.chats[2].messages] == ["Hi", "Hello!", "two"]


def test_conversation_when_it_has_grown_too_long_then_400_names_the_input(client: httpx.Client) -> None:
    last = respond(client, [{"role": "user", "content": "Hi"}] * 20)
    for _ in range(6):
        last = respond(client, previous_response_id=last["id"])
    assert refusal(client, previous_response_id=last["id"])["message"] == (
        "The conversation has 41 items; this server takes 40."
    )


# --- how much is read -----------------------------------------------------------------------------------------------


def test_references_when_there_are_many_then_they_are_counted_before_any_is_looked_up(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResponseStore, "items", None)
    error = refusal(client, input=[{"id": "msg_1"}] * 41)
    assert (error["param"], error["message"]) == ("input", "The conversation has 41 items; this server takes 40.")


def test_references_when_many_lead_to_one_response_then_it_is_read_once(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasoning, message = respond(client)["output"]
    read = []
    load = ResponseDatabase.load
    monkeypatch.setattr(ResponseDatabase, "load", lambda self, name: read.append(name) or load(self, name))
    respond(client, [{"id": reasoning["id"]}, {"id": message["id"]}, {"role": "user", "content": "Go on"}] * 10)
    assert len(read) == 1


def test_what_is_kept_when_it_is_too_long_to_read_at_once_then_400(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "r.sqlite", FakeModelServer(), max_body_bytes=4096) as url,
        httpx.Client(base_url=url) as client,
    ):
        last = respond(client)["id"]
        for _ in range(10):
            body = {"model": MODEL, "input": "word " * 700, "previous_response_id": last}
            response = client.post(RESPONSES, json=body)
            if response.status_code != 200:
                break
            last = response.json()["id"]
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["param"] == "previous_response_id"
        assert error["message"].endswith("one request may have 8192 read.")
        assert client.get(f"{RESPONSES}/{last}").status_code == 200
        assert client.get(f"{RESPONSES}/{last}/input_items").json()["error"]["param"] == "response_id"

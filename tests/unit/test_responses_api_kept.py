"""Responses that are kept: continued, retrieved, listed, deleted, expired."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gptoss_adapter.responses.keeping.database import ResponseDatabase
from gptoss_adapter.responses.keeping.progress import LEASE_S
from gptoss_adapter.responses.keeping.store import ResponseStore
from gptoss_adapter.schemas.carried_reasoning import reasoning_of
from gptoss_backend.contract import ChatMessage, Role, ToolCall
from gptoss_client.keys import add_key
from support.fake_adapter import adapter_process
from support.fake_model_server import FOREVER, HELLO, FakeModelServer, Pause, answer
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
ANSWER = ChatMessage(Role.ASSISTANT, "Hello!", "Easy.")


url_and_server = keeping_adapter(max_messages=40)


def listed(client: httpx.Client, response_id: str, **query: object) -> dict[str, Any]:
    response = client.get(f"{RESPONSES}/{response_id}/input_items", params=query)  # type: ignore[arg-type]
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


def assert_not_found(response: httpx.Response, response_id: str) -> None:
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "response_not_found")
    assert error["message"] == f"Response with id '{response_id}' not found."


# --- continuing -----------------------------------------------------------------------------------------------------


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


# --- retrieving, deleting, cancelling -------------------------------------------------------------------------------


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


# --- those that are not over ----------------------------------------------------------------------------------------


@contextmanager
def begun_stream(client: httpx.Client, **fields: object) -> Iterator[dict[str, Any]]:
    """Begin a stream and yield its response as the first event tells it; then leave."""
    body = {"model": MODEL, "input": "Hi", "stream": True, **fields}
    with client.stream("POST", RESPONSES, json=body) as response:
        lines = response.iter_lines()
        assert next(lines) == "event: response.created"
        yield json.loads(next(lines).removeprefix("data: "))["response"]


def test_response_when_its_stream_has_begun_then_it_is_told_as_in_progress(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = [*HELLO[:5], FOREVER]
    with begun_stream(client) as told:
        assert client.get(f"{RESPONSES}/{told['id']}").json() == told
        assert (told["status"], told["output"], told["store"]) == ("in_progress", [], True)
        assert [item["role"] for item in listed(client, told["id"])["data"]] == ["user"]
        assert refusal(client, previous_response_id=told["id"])["code"] == "previous_response_in_progress"


def test_response_when_its_client_leaves_then_it_is_kept_as_cancelled_with_what_was_whole(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [[*HELLO[:-2], FOREVER]]
    with client.stream("POST", RESPONSES, json={"model": MODEL, "input": "Hi", "stream": True}) as response:
        events = (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: "))
        told = next(events)["response"]
        next(event for event in events if event["type"] == "response.output_text.delta")
    ended = settled(client, told["id"])
    assert (ended["status"], ended["error"], ended["completed_at"]) == ("cancelled", None, None)
    assert [item["type"] for item in ended["output"]] == ["reasoning"]
    respond(client, previous_response_id=told["id"])
    assert server.chats[1].messages[1].reasoning == "Easy."


def test_response_when_it_is_deleted_while_it_streams_then_it_stays_so_and_its_end_says_that(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = [*HELLO[:5], Pause(0.3), *HELLO[5:]]
    body = {"model": MODEL, "input": "Hi", "stream": True}
    with client.stream("POST", RESPONSES, json=body) as response:
        events = (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: "))
        told = next(events)["response"]
        assert client.delete(f"{RESPONSES}/{told['id']}").status_code == 200
        *_, last = events
    assert (last["type"], last["response"]["store"]) == ("response.completed", False)
    assert_not_found(client.get(f"{RESPONSES}/{told['id']}"), told["id"])


def test_response_when_it_is_not_to_be_kept_then_nothing_of_its_stream_is(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = [*HELLO[:5], FOREVER]
    with begun_stream(client, store=False) as told:
        assert_not_found(client.get(f"{RESPONSES}/{told['id']}"), told["id"])


def test_response_when_another_adapter_of_the_same_file_makes_it_then_it_is_in_progress_until_that_one_is_gone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "r.sqlite"
    with (
        adapter_process("endless", ADAPTER__RESPONSES_PATH=path) as one,
        httpx.Client(base_url=one.url) as client,
        begun_stream(client) as told,
    ):
        with serving(path, FakeModelServer()) as url, httpx.Client(base_url=url) as other:
            assert other.get(f"{RESPONSES}/{told['id']}").json() == told
        one.process.kill()
        one.process.wait()
    with closing(sqlite3.connect(path)) as connection, connection:  # time passes
        [(until,)] = connection.execute("SELECT leased_until FROM under_way")
        connection.execute("UPDATE under_way SET leased_until = leased_until - ?", (LEASE_S,))
    assert 0 < until - time.time() <= LEASE_S
    with serving(path, FakeModelServer()) as url, httpx.Client(base_url=url) as other:
        failed = settled(other, told["id"])
        assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
        assert failed["error"]["message"] == "The server ended before this response did."
        respond(other, previous_response_id=told["id"])


def test_response_when_its_process_is_told_to_end_then_it_is_kept_as_failed(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    settings = {"SERVER__SHUTDOWN_TIMEOUT_S": 2, "ADAPTER__RESPONSES_PATH": path}
    with (
        adapter_process("endless", **settings) as one,
        httpx.Client(base_url=one.url) as client,
        begun_stream(client) as told,
    ):
        one.process.terminate()
        assert one.process.wait(timeout=10) == 0
    with serving(path, FakeModelServer()) as url, httpx.Client(base_url=url) as other:
        failed = settled(other, told["id"])
    assert (failed["status"], failed["error"]["message"]) == ("failed", "The server is shutting down.")


# --- input items ----------------------------------------------------------------------------------------------------


def test_input_items_when_listed_then_they_are_whole_and_the_newest_comes_first(client: httpx.Client) -> None:
    first = respond(client, [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}])
    page = listed(client, first["id"])
    assistant, user = page["data"]
    assert (page["object"], page["has_more"]) == ("list", False)
    assert (page["first_id"], page["last_id"]) == (assistant["id"], user["id"])
    assert user.pop("id").startswith("msg_")
    assert user == {
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_text", "text": "Hi"}],
    }
    assert assistant["content"] == [{"type": "output_text", "text": "Yes?", "annotations": []}]


def test_input_items_when_reasoning_is_to_be_carried_then_it_is_told_again(client: httpx.Client) -> None:
    second = respond(client, previous_response_id=respond(client)["id"])
    plain = [item for item in listed(client, second["id"])["data"] if item["type"] == "reasoning"]
    asked = {"include[]": ["reasoning.encrypted_content", "message.output_text.logprobs"]}
    [carried] = [item for item in listed(client, second["id"], **asked)["data"] if item["type"] == "reasoning"]
    assert reasoning_of(carried.pop("encrypted_content")) == "Easy."
    assert [carried] == plain


def test_input_items_when_a_response_continues_another_then_all_it_was_made_from_is_listed_page_by_page(
    client: httpx.Client,
) -> None:
    first = respond(client)
    second = respond(client, "more", previous_response_id=first["id"])
    kinds, after = [], None
    for num_left in (3, 2, 1, 0):
        query = {"limit": 1, "order": "asc"} | ({"after": after} if after else {})
        page = listed(client, second["id"], **query)
        [item] = page["data"]
        kinds.append((item["type"], item.get("role")))
        assert page["has_more"] is (num_left > 0)
        after = item["id"]
    assert kinds == [("message", "user"), ("reasoning", None), ("message", "assistant"), ("message", "user")]
    end = listed(client, second["id"], order="asc", after=after)
    assert (end["data"], end["first_id"], end["has_more"]) == ([], None, False)


@pytest.mark.parametrize(
    ("query", "param"),
    [({"limit": 0}, "limit"), ({"limit": 101}, "limit"), ({"order": "up"}, "order"), ({"after": "x"}, "after")],
)
def test_input_items_when_the_query_is_wrong_then_400_names_the_parameter(
    client: httpx.Client, query: dict[str, Any], param: str
) -> None:
    response = client.get(f"{RESPONSES}/{respond(client)['id']}/input_items", params=query)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


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


# --- the store ------------------------------------------------------------------------------------------------------


def test_store_when_the_adapter_is_restarted_then_what_was_kept_is_still_there(tmp_path: Path) -> None:
    server = FakeModelServer()
    with serving(tmp_path / "new" / "r.sqlite", server) as url, httpx.Client(base_url=url) as client:
        told = respond(client)
    with serving(tmp_path / "new" / "r.sqlite", server) as url, httpx.Client(base_url=url) as client:
        assert client.get(f"{RESPONSES}/{told['id']}").json() == told


def test_store_when_it_is_in_memory_then_it_works_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(Path(":memory:"), FakeModelServer()) as url, httpx.Client(base_url=url) as client:
        told = respond(client)
        respond(client, previous_response_id=told["id"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("streamed", [False, True])
def test_store_when_it_fails_then_the_answer_is_given_all_the_same_and_says_that_it_is_not_kept(
    tmp_path: Path, streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    with serving(tmp_path / "taken" / "r.sqlite", FakeModelServer()) as url, httpx.Client(base_url=url) as client:
        with caplog.at_level(logging.ERROR, "gptoss_adapter.responses.keeping.store_thread"):
            told = stream(client)[-1]["response"] if streamed else respond(client)
        assert (told["status"], told["store"]) == ("completed", False)
        assert "the store of responses failed" in caplog.text
        assert refusal(client, 503, previous_response_id=told["id"])["code"] == "service_unavailable"


def test_store_when_its_file_is_damaged_then_503_and_not_500(tmp_path: Path) -> None:
    (tmp_path / "r.sqlite").write_bytes(b"not a database " * 1000)
    with serving(tmp_path / "r.sqlite", FakeModelServer()) as url, httpx.Client(base_url=url) as client:
        assert respond(client)["store"] is False
        assert client.get(f"{RESPONSES}/resp_1").status_code == 503


def test_store_when_an_answer_is_larger_than_it_then_the_answer_is_given_and_not_kept(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "r.sqlite", FakeModelServer(), responses_max_bytes=1024 * 1024) as url,
        httpx.Client(base_url=url) as client,
    ):
        assert respond(client, "long " * 400_000)["store"] is False
        kept = respond(client)
        assert kept["store"] is True
        assert client.get(f"{RESPONSES}/{kept['id']}").status_code == 200


def test_store_when_it_is_used_by_two_processes_then_both_see_all_of_it(tmp_path: Path) -> None:
    server = FakeModelServer()
    path = tmp_path / "r.sqlite"
    with (
        serving(path, server) as one,
        serving(path, server) as other,
        httpx.Client(base_url=one) as first,
        httpx.Client(base_url=other) as second,
    ):
        told = respond(first)
        respond(second, previous_response_id=told["id"])
        second.delete(f"{RESPONSES}/{told['id']}")
        assert_not_found(first.get(f"{RESPONSES}/{told['id']}"), told["id"])
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM responses").fetchone() == (1,)


# --- whose ----------------------------------------------------------------------------------------------------------


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


def test_input_when_its_text_carries_logprobs_then_they_are_not_kept(client: httpx.Client) -> None:
    part = {"type": "input_text", "text": "Hi", "annotations": [{}] * 9, "logprobs": [{}] * 9}
    told = respond(client, [{"type": "message", "role": "user", "content": [part]}])
    kept = listed(client, told["id"])["data"][0]["content"][0]
    assert (kept["annotations"], kept["logprobs"]) == ([], [])

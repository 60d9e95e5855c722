"""Responses that are made in the background: polled, cancelled, bounded in number, and ended with their process."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from gptoss_adapter import admission
from gptoss_adapter.errors import ContextLengthExceededError, ServiceUnavailableError, TooManyRequestsError
from gptoss_backend.contract import FinishReason
from gptoss_client.keys import add_key
from support.background_responses import ENDLESS, SLOW, begin, cancelled, resumed, retrieved, streamed
from support.fake_adapter import adapter_process
from support.fake_model_server import FOREVER, HELLO, FakeModelServer, Pause, answer
from support.live_app import wait_until
from support.responses_api import MODEL, RESPONSES, keeping_adapter, refusal, respond, serving, settled

url_and_server = keeping_adapter(max_background_responses=3)


# --- made and polled ------------------------------------------------------------------------------------------------


def test_background_when_asked_for_then_it_is_queued_at_once_then_in_progress_then_what_a_whole_answer_is(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [[Pause(0.2), *SLOW]]
    told = begin(client, metadata={"k": "v"})
    assert (told["status"], told["output"], told["usage"], told["error"]) == ("queued", [], None, None)
    assert retrieved(client, told) == told
    wait_until(lambda: retrieved(client, told)["status"] == "in_progress")
    done = settled(client, told["id"])
    whole = respond(client)
    changed = {"status", "output", "usage", "completed_at"}
    assert {name for name in done if done[name] != told[name]} == changed
    assert done["usage"] == whole["usage"]
    assert [item["content"][0]["text"] for item in done["output"]] == ["Easy.", "Hello!"]


def test_background_when_it_is_done_then_it_can_be_continued_and_its_items_referred_to(
    client: httpx.Client, server: FakeModelServer
) -> None:
    done = settled(client, begin(client)["id"])
    respond(client, previous_response_id=done["id"])
    respond(client, [{"id": item["id"]} for item in done["output"]])
    assert [message.content for message in server.chats[1].messages] == ["Hi", "Hello!", "Hi"]
    assert server.chats[2].messages[0].reasoning == "Easy."


def test_background_when_it_is_continued_before_its_end_then_400(client: httpx.Client, server: FakeModelServer) -> None:
    server.scripts = [ENDLESS]
    told = begin(client)
    error = refusal(client, previous_response_id=told["id"])
    assert (error["param"], error["code"]) == ("previous_response_id", "previous_response_in_progress")
    cancelled(client, told)


def test_background_when_the_budget_is_spent_then_it_is_incomplete(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer("<|channel|>final<|message|>Hel", reason=FinishReason.LENGTH)
    done = settled(client, begin(client)["id"])
    assert (done["status"], done["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ServiceUnavailableError("Gone."), "server_error", "Gone."),
        (TooManyRequestsError("Later."), "rate_limit_exceeded", "Later."),
        (ValueError("a secret"), "server_error", "The server failed on this request."),
    ],
)
@pytest.mark.parametrize("num_told", [0, 5])
def test_background_when_it_fails_then_it_is_kept_as_failed(
    client: httpx.Client, server: FakeModelServer, error: Exception, code: str, message: str, num_told: int
) -> None:
    server.script = [*HELLO[:num_told], error]
    failed = settled(client, begin(client)["id"])
    assert (failed["status"], failed["error"]["code"]) == ("failed", code)
    assert failed["error"]["message"].startswith(message)


def test_background_when_the_prompt_is_too_long_then_it_is_kept_as_failed_by_that(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.preprocess_error = ContextLengthExceededError("Too long.")
    try:
        failed = settled(client, begin(client)["id"])
    finally:
        server.preprocess_error = None
    message = "Your input exceeds the context window of this model. Too long."
    assert failed["error"] == {"code": "context_length_exceeded", "message": message}


def test_background_when_the_request_is_wrong_then_400_at_once(client: httpx.Client) -> None:
    assert refusal(client, background=True, input=[])["param"] == "input"
    error = refusal(client, background=True, store=False)
    assert (error["param"], error["code"]) == ("background", "invalid_value")
    assert "'store'" in error["message"]


def test_background_when_nothing_can_be_kept_then_503(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    server = FakeModelServer()
    with serving(tmp_path / "taken" / "r.sqlite", server) as url, httpx.Client(base_url=url) as client:
        assert refusal(client, 503, background=True)["code"] == "service_unavailable"
        assert refusal(client, 503, background=True, stream=True)["code"] == "service_unavailable"
    assert server.streams == []


def test_background_when_it_ends_then_the_log_says_how(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "gptoss_adapter.responses.background"):
        told = begin(client)
        wait_until(lambda: f"background response {told['id']} completed" in caplog.text)


# --- cancelled and deleted ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [[FOREVER], ENDLESS], ids=["queued", "answering"])
def test_cancel_when_it_is_under_way_then_it_ends_and_so_does_the_generation(
    client: httpx.Client, server: FakeModelServer, script: list[Any]
) -> None:
    server.script = script
    told = begin(client)
    wait_until(lambda: bool(server.streams))
    ended = cancelled(client, told)
    assert (ended["id"], ended["status"], ended["error"]) == (told["id"], "cancelled", None)
    assert server.streams[0].abandoned
    assert cancelled(client, told) == retrieved(client, told) == ended


def test_cancel_when_it_is_over_then_it_stays_as_it_is(client: httpx.Client) -> None:
    done = settled(client, begin(client)["id"])
    assert cancelled(client, done) == done


def test_cancel_when_it_is_not_in_the_background_then_400(client: httpx.Client) -> None:
    response = client.post(f"{RESPONSES}/{respond(client)['id']}/cancel")
    assert (response.status_code, response.json()["error"]["message"]) == (400, "Cannot cancel a synchronous response.")


def test_delete_when_it_is_under_way_then_it_ends(client: httpx.Client, server: FakeModelServer) -> None:
    server.script = ENDLESS
    told = begin(client)
    wait_until(lambda: bool(server.streams))
    assert client.delete(f"{RESPONSES}/{told['id']}").status_code == 200
    assert server.streams[0].abandoned
    assert client.get(f"{RESPONSES}/{told['id']}").status_code == 404


@pytest.mark.parametrize("method", ["cancel", "delete"])
def test_cancel_when_another_adapter_of_the_same_file_makes_it_then_that_one_ends_it_soon(
    client: httpx.Client, server: FakeModelServer, store: Path, method: str
) -> None:
    server.script = ENDLESS
    told = begin(client)
    with serving(store, FakeModelServer()) as url, httpx.Client(base_url=url) as other:
        wait_until(lambda: retrieved(other, told)["status"] == "in_progress")
        if method == "cancel":
            ended = cancelled(other, told)
            assert (ended["status"], retrieved(client, told)) == ("cancelled", ended)
        else:
            other.delete(f"{RESPONSES}/{told['id']}")
    assert wait_until(lambda: server.streams[0].abandoned) < 4.0


# --- how many -------------------------------------------------------------------------------------------------------


def test_background_when_as_many_as_may_be_are_under_way_then_429_until_one_ends(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = ENDLESS
    under_way = [begin(client) for _ in range(3)]
    response = client.post(RESPONSES, json={"model": MODEL, "input": "Hi", "background": True})
    assert (response.status_code, response.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert "adapter.max_background_responses" in response.json()["error"]["message"]
    assert int(response.headers["retry-after"]) >= 1
    cancelled(client, under_way.pop())
    under_way.append(begin(client))
    server.script = HELLO
    assert respond(client)["status"] == "completed"  # others are not held up
    for told in under_way:
        cancelled(client, told)


def test_background_when_a_key_has_as_many_under_way_as_it_may_then_429_until_one_ends(tmp_path: Path) -> None:
    key, server = add_key(tmp_path / "keys", "alice", 1), FakeModelServer(script=ENDLESS)
    with (
        serving(tmp_path / "r.sqlite", server, keys_path=str(tmp_path / "keys")) as url,
        httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as client,
    ):
        told = begin(client)
        assert refusal(client, 429)["message"].startswith("The key 'alice' has 1 answers under way")
        assert retrieved(client, told)["status"] in ("queued", "in_progress")  # looking is not counted
        assert cancelled(client, told)["status"] == "cancelled"  # nor is this
        server.script = HELLO
        wait_until(lambda: client.post(RESPONSES, json={"model": MODEL, "input": "Hi"}).status_code == 200)


def test_kept_responses_when_a_key_reads_as_many_as_it_may_then_429_and_a_stream_that_waits_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "_MAX_READING", 1)
    key, server = add_key(tmp_path / "keys", "alice"), FakeModelServer(script=ENDLESS)
    with (
        serving(tmp_path / "r.sqlite", server, keys_path=str(tmp_path / "keys")) as url,
        httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as client,
    ):
        with streamed(client) as events:
            told = next(events)["response"]
        path = f"{RESPONSES}/{told['id']}"
        with client.stream("GET", path, params={"stream": True}) as response:
            lines = response.iter_lines()  # kept: a generator that is let go of hangs up
            next(lines)
            assert client.get(path).status_code == 200
        cancelled(client, told)
        monkeypatch.setattr(admission, "_MAX_READING", 0)
        for query in ({}, {"stream": True}, {"x": "stream=true"}):
            refused = client.get(path, params=query)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        for changing in (client.delete(path), client.post(f"{path}/cancel")):  # they wait for the same thread
            assert (changing.status_code, changing.headers["retry-after"]) == (429, "1")


# --- the process's end ----------------------------------------------------------------------------------------------


def test_drain_when_a_response_is_made_in_the_background_then_it_is_given_the_time_to_end(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with adapter_process("slow", ADAPTER__RESPONSES_PATH=path) as one, httpx.Client(base_url=one.url) as client:
        told = begin(client)
        one.process.terminate()
        assert one.process.wait(timeout=10) == 0
    with serving(path, FakeModelServer()) as url, httpx.Client(base_url=url) as other:
        assert retrieved(other, told)["status"] == "completed"


@pytest.mark.parametrize("is_streamed", [False, True])
def test_drain_when_the_time_is_up_then_what_is_made_in_the_background_has_failed(
    tmp_path: Path, is_streamed: bool
) -> None:
    path = tmp_path / "r.sqlite"
    settings = {"SERVER__SHUTDOWN_TIMEOUT_S": 2, "ADAPTER__RESPONSES_PATH": path}
    with adapter_process("endless", **settings) as one, httpx.Client(base_url=one.url) as client:
        if is_streamed:
            with streamed(client) as events:
                told = next(events)["response"]
                one.process.terminate()
                *_, last = events
            assert last["type"] in ("response.failed", "error")
            assert (last.get("response") or {"error": last})["error"]["message"] == "The server is shutting down."
        else:
            told = begin(client)
            one.process.terminate()
        begun = time.monotonic()
        assert one.process.wait(timeout=10) == 0
        assert time.monotonic() - begun < 5.0
    with serving(path, FakeModelServer()) as url, httpx.Client(base_url=url) as other:
        failed = retrieved(other, told)
        assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
        assert failed["error"]["message"] == "The server is shutting down."
        if is_streamed:
            assert resumed(other, told)[-1]["response"] == failed

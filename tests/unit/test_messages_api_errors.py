"""POST /v1/messages: errors in Anthropic's shape, keys in its header."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gptoss_adapter.errors import ContextLengthExceededError, ServiceUnavailableError
from gptoss_client.keys import add_key
from support.fake_model_server import (
    FakeModelServer,
)
from support.messages_api import HI, MESSAGES, MODEL, message_body, serving


@pytest.fixture(scope="module")
def url_and_server() -> Iterator[tuple[str, FakeModelServer]]:
    server = FakeModelServer()
    with serving(server) as url:
        yield url, server


# --- errors ---------------------------------------------------------------------------------------------------------


def error(response: httpx.Response) -> tuple[int, str, str]:
    document = response.json()
    assert document["type"] == "error"
    assert document["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    return response.status_code, document["error"]["type"], document["error"]["message"]


def test_error_when_the_model_is_unknown_then_it_is_not_found(client: httpx.Client) -> None:
    status, kind, message = error(client.post(MESSAGES, json=message_body(model="claude-haiku-4-5")))
    assert (status, kind) == (404, "not_found_error")
    assert "'claude-haiku-4-5'" in message


def test_error_when_the_prompt_is_too_long_then_claude_code_knows_the_words(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = [ContextLengthExceededError("Your prompt has 9 tokens.")]
    told = error(client.post(MESSAGES, json=message_body()))
    assert told == (400, "invalid_request_error", "prompt is too long: Your prompt has 9 tokens.")


def test_error_when_the_backend_is_away_then_it_is_overloaded_and_plain_json_even_for_a_stream(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = [ServiceUnavailableError("Triton is away.")]
    for streamed in (False, True):
        response = client.post(MESSAGES, json=message_body(stream=streamed))
        assert error(response) == (503, "overloaded_error", "Triton is away.")
        assert response.headers["retry-after"] == "5"


def test_error_when_no_route_was_reached_then_the_shape_is_anthropics_here_and_openais_elsewhere(
    client: httpx.Client,
) -> None:
    assert error(client.get(MESSAGES))[:2] == (405, "invalid_request_error")
    assert error(client.post(f"{MESSAGES}/batches", json={}))[:2] == (404, "not_found_error")
    assert error(client.post(MESSAGES, content=b"{"))[:2] == (415, "invalid_request_error")
    assert client.get("/v1/messagesx").json()["error"]["code"] == "unknown_url"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": []}],
        [{"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]}],
    ],
)
def test_error_when_messages_say_nothing_then_it_names_them(client: httpx.Client, messages: list[Any]) -> None:
    counted = {"model": MODEL, "messages": messages}
    for path, body in ((MESSAGES, message_body(messages=messages)), (f"{MESSAGES}/count_tokens", counted)):
        told = client.post(path, json=body)
        assert error(told)[:2] == (400, "invalid_request_error")
        assert told.json()["error"]["message"].startswith("'messages' say nothing")


def test_error_when_the_body_is_too_large_then_it_says_so(server: FakeModelServer) -> None:
    with serving(server, max_body_bytes=1024) as url:
        response = httpx.post(url + MESSAGES, json=message_body(system="x" * 2000))
    assert error(response)[:2] == (413, "request_too_large")


def test_key_when_it_is_given_as_x_api_key_then_it_is_taken_where_anthropics_clients_go(
    server: FakeModelServer, tmp_path: Path
) -> None:
    path = tmp_path / "keys"
    key = add_key(path, "alice")
    with serving(server, keys_path=str(path)) as url, httpx.Client(base_url=url) as client:
        for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
            assert client.post(MESSAGES, json=message_body(), headers=headers).status_code == 200
        for headers in ({"x-api-key": "none"}, {}):
            told = error(client.post(MESSAGES, json=message_body(), headers=headers))
            assert told[:2] == (401, "authentication_error")
        for path in ("/v1/models", f"/v1/models/{MODEL}"):
            assert client.get(path, headers={"x-api-key": key}).status_code == 200
            assert client.get(path, headers={"x-api-key": "none"}).status_code == 401
        chat = {"model": MODEL, "messages": HI}
        assert client.post("/v1/chat/completions", json=chat, headers={"x-api-key": key}).status_code == 401

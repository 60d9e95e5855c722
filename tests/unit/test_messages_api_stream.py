"""POST /v1/messages, streamed, and …/count_tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from gptoss_adapter.errors import ServiceUnavailableError
from gptoss_adapter.inference import GenerationStep
from support.fake_model_server import (
    CACHED_TOKENS,
    CHAT_PROMPT,
    FOREVER,
    STARTED,
    FakeModelServer,
    Pause,
    answer,
    token_ids,
)
from support.live_app import wait_until
from support.messages_api import COUNT, HI, MESSAGES, MODEL, WEATHER, message_body, serving, stream
from support.responses_api import CALL


@pytest.fixture(scope="module")
def url_and_server() -> Iterator[tuple[str, FakeModelServer]]:
    server = FakeModelServer()
    with serving(server) as url:
        yield url, server


# --- streams --------------------------------------------------------------------------------------------------------


def test_stream_when_it_thinks_and_calls_then_all_events_come_in_anthropics_order(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer(CALL)
    events = stream(client, tools=[WEATHER])
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    begun = events[0]["message"]
    assert (begun["content"], begun["stop_reason"], begun["usage"]["input_tokens"]) == ([], None, 4)
    assert [event["type"] for event in events if event["type"] != "content_block_delta"] == [
        "message_start",
        *["content_block_start", "content_block_stop"] * 2,
        "message_delta",
        "message_stop",
    ]
    assert [(event["index"], event["content_block"]["type"]) for event in events if "content_block" in event] == [
        (0, "thinking"),
        (1, "tool_use"),
    ]
    assert "".join(delta.get("thinking", "") for delta in deltas) == "Look it up."
    assert {"type": "signature_delta", "signature": "unsigned"} in deltas
    assert json.loads("".join(delta.get("partial_json", "") for delta in deltas)) == {"city": "Oslo"}
    ended = events[-2]
    assert ended["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert ended["usage"]["output_tokens"] == len(token_ids(CALL))
    assert ended["usage"]["cache_read_input_tokens"] == CACHED_TOKENS


def test_stream_when_it_fails_midway_then_an_error_event_ends_it(client: httpx.Client, server: FakeModelServer) -> None:
    beginning = GenerationStep(token_ids("<|channel|>final<|message|>Hel"))
    server.script = [STARTED, beginning, ServiceUnavailableError("Triton went away.")]
    events = stream(client)
    assert [event["type"] for event in events[:3]] == ["message_start", "content_block_start", "content_block_delta"]
    assert events[-1]["error"] == {"type": "overloaded_error", "message": "Triton went away."}
    assert events[-1]["request_id"]


def test_stream_when_it_is_silent_then_pings_keep_it_alive(client: httpx.Client, server: FakeModelServer) -> None:
    server.script = [Pause(0.25), *answer("<|channel|>final<|message|>Hi<|return|>")]
    events = stream(client)
    assert events[0] == {"type": "ping"}
    assert events[-1] == {"type": "message_stop"}


def test_stream_when_the_client_goes_away_then_the_generation_is_cancelled(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = [STARTED, GenerationStep(token_ids("<|channel|>final<|message|>Hel")), FOREVER]
    with client.stream("POST", MESSAGES, json=message_body(stream=True)) as response:
        next(response.iter_lines())
    wait_until(lambda: server.streams[-1].abandoned)


# --- counting -------------------------------------------------------------------------------------------------------


def test_count_when_a_conversation_is_given_then_its_prompt_is_counted(
    client: httpx.Client, server: FakeModelServer
) -> None:
    body = {"model": MODEL, "messages": HI, "system": "Be brief.", "tools": [WEATHER], "thinking": {"type": "adaptive"}}
    response = client.post(f"{COUNT}?beta=true", json=body)
    assert response.json() == {"input_tokens": len(CHAT_PROMPT)}
    assert server.chats[-1].messages[0].content == "Be brief."
    assert server.streams == []

"""Pictures and files among what a tool returned, in each API: the model is told that one was there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.fake_model_server import FakeModelServer
from support.responses_api import MODEL, listed, respond, serving

PNG = "data:image/png;base64,iVBORw0KGgo="
PICTURE = "[Here is a picture, which this model cannot see.]"


@pytest.fixture(scope="module")
def url_and_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, FakeModelServer]]:
    server = FakeModelServer()
    path: Path = tmp_path_factory.mktemp("store") / "responses.sqlite"
    with serving(path, server) as url:
        yield url, server


def told_by_chats(client: httpx.Client, server: FakeModelServer, *parts: dict[str, Any]) -> str | None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    asked = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": list(parts)},
    ]
    answered = client.post("/v1/chat/completions", json={"model": MODEL, "messages": asked})
    assert answered.status_code == 200, answered.text
    return server.chats[-1].messages[-1].content


def told_by_messages(client: httpx.Client, server: FakeModelServer, *parts: dict[str, Any]) -> str | None:
    asked = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": list(parts)}]},
    ]
    answered = client.post("/v1/messages", json={"model": MODEL, "max_tokens": 9, "messages": asked})
    assert answered.status_code == 200, answered.text
    return server.chats[-1].messages[-1].content


def outcome(kind: str, *parts: dict[str, Any]) -> list[dict[str, Any]]:
    written = {"arguments": "{}"} if kind == "function_call" else {"input": ""}
    return [
        {"type": kind, "call_id": "call_1", "name": "look", **written},
        {"type": f"{kind}_output", "call_id": "call_1", "output": list(parts)},
    ]


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"type": "image_url", "image_url": {"url": PNG, "detail": "low"}}, PICTURE),
        (
            {"type": "file", "file": {"filename": "plan.pdf", "file_data": "data:"}},
            "[Here is the file plan.pdf, which this model cannot read.]",
        ),
        ({"type": "file", "file": {"file_id": "file_1"}}, "[Here is a file, which this model cannot read.]"),
    ],
)
def test_tool_message_when_it_holds_what_cannot_be_seen_then_the_model_is_told_so(
    client: httpx.Client, server: FakeModelServer, part: dict[str, Any], told: str
) -> None:
    assert told_by_chats(client, server, part) == told


@pytest.mark.parametrize("kind", ["function_call", "custom_tool_call"])
@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"type": "input_image", "image_url": PNG, "detail": "high"}, PICTURE),  # Codex's view_image
        ({"type": "input_image", "file_id": "file_1"}, PICTURE),
        (
            {"type": "input_file", "filename": "plan.pdf", "file_data": "data:"},
            "[Here is the file plan.pdf, which this model cannot read.]",
        ),
        ({"type": "input_file", "file_url": "https://a.example"}, "[Here is a file, which this model cannot read.]"),
    ],
)
def test_output_when_it_holds_what_cannot_be_seen_then_the_model_is_told_so(
    client: httpx.Client, server: FakeModelServer, kind: str, part: dict[str, Any], told: str
) -> None:
    respond(client, outcome(kind, part))
    assert server.chats[-1].messages[-1].content == told


def test_output_when_it_holds_a_picture_then_it_is_kept_and_continued_without_what_it_showed(
    client: httpx.Client, server: FakeModelServer
) -> None:
    picture = {"type": "input_image", "image_url": PNG, "detail": "high"}
    first = respond(client, outcome("function_call", picture))
    (output, *_) = listed(client, first["id"])["data"]
    assert output["output"] == [{**picture, "image_url": None}]
    respond(client, [output], previous_response_id=first["id"])  # sent back as it was told
    assert [one.content for one in server.chats[-1].messages if one.tool_call_id] == [PICTURE, PICTURE]


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}, PICTURE),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}, "cache_control": None}, PICTURE),
        (
            {"type": "document", "title": "plan.pdf", "source": {"type": "url", "url": "https://a.example"}},
            "plan.pdf\n[Here is a file, which this model cannot read.]",
        ),
        (
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Dig here."}},
            "Dig here.",
        ),
        (
            {
                "type": "search_result",
                "title": "Tides",
                "source": "https://a.example",
                "content": [{"type": "text", "text": "High at noon."}, {"type": "text", "text": "Low at six."}],
            },
            "Tides\nhttps://a.example\nHigh at noon.\nLow at six.",
        ),
    ],
)
def test_tool_result_when_it_holds_what_cannot_be_seen_then_the_model_is_told_so(
    client: httpx.Client, server: FakeModelServer, block: dict[str, Any], told: str
) -> None:
    assert told_by_messages(client, server, block) == told


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("/v1/chat/completions", {"type": "image_url", "image_url": {"url": PNG}}),
        ("/v1/messages", {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}),
    ],
)
def test_picture_when_it_is_the_users_then_it_is_refused(client: httpx.Client, path: str, part: dict[str, Any]) -> None:
    body = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": [part]}]}
    refused = client.post(path, json=body)
    assert refused.status_code == 400
    assert "messages[0].content[0]" in refused.json()["error"]["message"]

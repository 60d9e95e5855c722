"""Tool loops in each API: the prompt of the next request begins with the tokens that are in the KV cache already."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gptoss_backend.harmony.prompt import render_prompt
from gptoss_backend.harmony.vocabulary import encoding
from support.chat_schemas import WEATHER as CHAT_WEATHER
from support.fake_model_server import FakeModelServer, answer, token_ids
from support.messages_api import WEATHER as MESSAGES_WEATHER
from support.responses_api import MODEL, WEATHER, respond, serving

THOUGHT = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant"
PREAMBLE = "<|channel|>commentary<|message|>I look first.<|end|><|start|>assistant"
CALL = '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city":"Oslo"}<|call|>'
IN_ORDER = THOUGHT.format("Hm.") + PREAMBLE + CALL
"""As a chat's message has it."""
TURNS = [
    CALL,
    IN_ORDER,
    PREAMBLE + THOUGHT.format("Hm.") + CALL,
    THOUGHT.format("Hm.") + PREAMBLE + THOUGHT.format("Where?") + CALL,
]


@pytest.fixture(scope="module")
def url_and_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, FakeModelServer]]:
    server = FakeModelServer()
    with serving(tmp_path_factory.mktemp("store") / "responses.sqlite", server) as url:
        yield url, server


def assert_the_second_prompt_goes_on(server: FakeModelServer, turn: str) -> None:
    first, second = (render_prompt(chat) for chat in server.chats)
    computed = first + token_ids(turn)
    assert second[: len(computed)] == computed
    rest = encoding().decode(second[len(computed) :])
    assert rest.startswith("<|start|>functions.weather to=assistant<|channel|>commentary<|message|>Snow<|end|>")


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("kept", [True, False])
def test_response_when_its_call_was_run_then_the_next_prompt_begins_with_its_tokens(
    client: httpx.Client, server: FakeModelServer, turn: str, kept: bool
) -> None:
    server.script = answer(turn)
    first = respond(client, tools=[WEATHER], store=kept)
    output = {"type": "function_call_output", "call_id": first["output"][-1]["call_id"], "output": "Snow"}
    if kept:
        respond(client, [output], tools=[WEATHER], previous_response_id=first["id"])
    else:
        asked = {"role": "user", "content": "Hi"}
        respond(client, [asked, *first["output"], output], tools=[WEATHER], store=False)
    assert_the_second_prompt_goes_on(server, turn)


@pytest.mark.parametrize("turn", TURNS)
def test_message_when_its_tool_was_used_then_the_next_prompt_begins_with_its_tokens(
    client: httpx.Client, server: FakeModelServer, turn: str
) -> None:
    server.script = answer(turn)
    asked: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
    body = {"model": MODEL, "max_tokens": 99, "tools": [MESSAGES_WEATHER]}
    told = client.post("/v1/messages", json={**body, "messages": asked}).json()
    result = {"type": "tool_result", "tool_use_id": told["content"][-1]["id"], "content": "Snow"}
    asked += [{"role": "assistant", "content": told["content"]}, {"role": "user", "content": [result]}]
    assert client.post("/v1/messages", json={**body, "messages": asked}).status_code == 200
    assert_the_second_prompt_goes_on(server, turn)


@pytest.mark.parametrize("turn", [CALL, IN_ORDER])
def test_chat_when_its_call_was_run_then_the_next_prompt_begins_with_its_tokens(
    client: httpx.Client, server: FakeModelServer, turn: str
) -> None:
    server.script = answer(turn)
    asked: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
    body = {"model": MODEL, "tools": [CHAT_WEATHER]}
    path = "/v1/chat/completions"
    told = client.post(path, json={**body, "messages": asked}).json()["choices"][0]["message"]
    asked += [told, {"role": "tool", "tool_call_id": told["tool_calls"][0]["id"], "content": "Snow"}]
    assert client.post(path, json={**body, "messages": asked}).status_code == 200
    assert_the_second_prompt_goes_on(server, turn)

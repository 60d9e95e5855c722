"""What Codex sends to /v1/responses (wire_api = "responses"), and what it must get back to go on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gptoss_adapter.errors import refusal_of
from gptoss_backend.contract import ChatMessage, Role, ToolCall, ToolChoice, ToolChoiceMode
from support.fake_model_server import FakeModelServer, answer
from support.responses_api import MODEL, RESPONSES, WEATHER, respond, serving, stream

SPAWN = {
    "type": "function",
    "name": "spawn_agent",
    "description": "Start an agent.",
    "strict": False,
    "parameters": {"type": "object", "properties": {"task": {"type": "string"}}, "required": ["task"]},
}
WAIT = {"type": "function", "name": "wait_agent", "description": "Wait.", "strict": False, "parameters": {}}
AGENTS = {"type": "namespace", "name": "multi_agent_v1", "description": "Agents that help.", "tools": [SPAWN, WAIT]}
WEB_SEARCH = {"type": "web_search", "external_web_access": False, "search_content_types": ["text"]}
SPAWNING = (
    "<|channel|>analysis<|message|>Get help.<|end|><|start|>assistant<|channel|>commentary"
    ' to=functions.multi_agent_v1__spawn_agent <|constrain|>json<|message|>{"task":"look"}<|call|>'
)
CODEX: dict[str, Any] = {
    "instructions": "You are Codex.",
    "tools": [WEB_SEARCH, WEATHER, AGENTS],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "019a",
    "client_metadata": {"x-codex-installation-id": "019b", "x-codex-turn-metadata": '{"turn_id":"1"}' * 100},
}


@pytest.fixture(scope="module")
def url_and_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, FakeModelServer]]:
    server = FakeModelServer()
    with serving(tmp_path_factory.mktemp("store") / "responses.sqlite", server) as url:
        yield url, server


def test_tools_when_some_are_in_a_namespace_then_the_model_knows_them_by_both_names(
    client: httpx.Client, server: FakeModelServer
) -> None:
    respond(client, **CODEX)
    assert [(tool.name, tool.description) for tool in server.chats[0].tools] == [
        ("weather", "Tell the weather."),
        ("multi_agent_v1__spawn_agent", "Agents that help.\n\nStart an agent."),
        ("multi_agent_v1__wait_agent", "Wait."),
    ]
    assert server.chats[0].tools[1].parameters == SPAWN["parameters"]


@pytest.mark.parametrize(
    "hosted", ["web_search", "web_search_preview", "web_search_preview_2025_03_11", "image_generation", "local_shell"]
)
def test_tools_when_openai_would_run_one_then_it_is_not_offered_and_the_response_says_so(
    client: httpx.Client, server: FakeModelServer, hosted: str
) -> None:
    told = respond(client, tools=[{"type": hosted, "anything": {"at": "all"}}, WEATHER, AGENTS])
    assert len(server.chats[0].tools) == 3
    assert told["tools"] == [WEATHER, AGENTS]
    assert respond(client, tools=[{"type": hosted}])["tools"] == []
    assert server.chats[1].tools == ()


@pytest.mark.parametrize(
    ("choice", "asked", "offered"),
    [
        (
            {"type": "function", "name": "multi_agent_v1__wait_agent"},
            ToolChoice(ToolChoiceMode.REQUIRED, "multi_agent_v1__wait_agent"),
            ["weather", "multi_agent_v1__spawn_agent", "multi_agent_v1__wait_agent"],
        ),
        (
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "multi_agent_v1__wait_agent"}],
            },
            ToolChoice(),
            ["multi_agent_v1__wait_agent"],
        ),
    ],
)
def test_tool_choice_when_it_names_a_function_of_a_namespace_then_it_is_by_both_names(
    client: httpx.Client, server: FakeModelServer, choice: object, asked: ToolChoice, offered: list[str]
) -> None:
    respond(client, tools=[WEATHER, AGENTS], tool_choice=choice)
    assert server.chats[0].tool_choice == asked
    assert [tool.name for tool in server.chats[0].tools] == offered


def test_call_when_its_function_is_of_a_namespace_then_the_item_has_both_names(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer(SPAWNING)
    call = respond(client, **CODEX)["output"][1]
    assert (call["namespace"], call["name"], call["arguments"]) == ("multi_agent_v1", "spawn_agent", '{"task":"look"}')
    events = stream(client, **CODEX)
    items = [event["item"] for event in events if event["type"].startswith("response.output_item")]
    calls = [item for item in items if item["type"] == "function_call"] + events[-1]["response"]["output"][1:]
    assert [(item["namespace"], item["name"]) for item in calls] == [("multi_agent_v1", "spawn_agent")] * 3
    [done] = [event for event in events if event["type"] == "response.function_call_arguments.done"]
    assert done["name"] == "spawn_agent"


def test_call_when_its_function_is_of_none_then_no_namespace_is_told(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer(SPAWNING.replace("multi_agent_v1__spawn_agent", "weather"))
    assert "namespace" not in respond(client, **CODEX)["output"][1]


def test_call_when_it_comes_back_then_the_model_sees_the_name_it_wrote_and_the_result_in_parts(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(SPAWNING)]
    first = respond(client, **CODEX)
    output = [{"type": "input_text", "text": "Agent 1"}, {"type": "input_text", "text": "is on its way."}]
    result = {
        "type": "function_call_output",
        "call_id": first["output"][1]["call_id"],
        "name": "spawn_agent",
        "namespace": "multi_agent_v1",
        "output": output,
    }
    question = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Help me"}]}
    respond(client, [question, *first["output"], result], **CODEX)
    *_, called, answered = server.chats[1].messages
    call_id = first["output"][1]["call_id"]
    call = ToolCall(call_id, "multi_agent_v1__spawn_agent", '{"task":"look"}')
    assert called == ChatMessage(Role.ASSISTANT, None, "Get help.", (call,))
    assert answered == ChatMessage(Role.TOOL, "Agent 1\nis on its way.", tool_call_id=call_id)


def test_call_when_its_conversation_is_kept_then_it_goes_on_under_the_name_the_model_wrote(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(SPAWNING)]
    first = respond(client, **{**CODEX, "store": True})
    result = {"type": "function_call_output", "call_id": first["output"][1]["call_id"], "output": "Done"}
    respond(client, [result], previous_response_id=first["id"])
    assert server.chats[1].messages[1].tool_calls[0].name == "multi_agent_v1__spawn_agent"


@pytest.mark.parametrize(
    ("place", "tool_choice"),
    [
        ("tools[1]", "auto"),
        (
            "tools[2].tools[1]",
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "multi_agent_v1__wait_agent"}],
            },
        ),
    ],
)
def test_refusal_when_a_tool_is_at_fault_then_its_place_in_the_request_is_named(
    client: httpx.Client, server: FakeModelServer, place: str, tool_choice: object
) -> None:
    body = {"model": MODEL, "input": "Hi", **CODEX, "tool_choice": tool_choice}
    try:
        for path in (RESPONSES, f"{RESPONSES}/input_tokens"):
            server.preprocess_error = refusal_of("tools[0].function.parameters: no")
            error = client.post(path, json=body).json()["error"]
            assert (error["param"], error["message"]) == (f"{place}.parameters", f"{place}.parameters: no.")
    finally:
        server.preprocess_error = None

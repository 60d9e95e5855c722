"""POST /v1/responses with tools of type mcp: a scripted model, and a real MCP server over a socket."""

from __future__ import annotations

import logging

import httpx
import pytest

from gptoss_adapter.logs import RequestIdFilter, TextFormatter
from gptoss_backend.contract import ChatMessage, FunctionTool, Role, ToolCall, ToolChoice, ToolChoiceMode
from support.fake_model_server import CACHED_TOKENS, HELLO, PROMPT_TOKENS, FakeModelServer, answer, token_ids
from support.live_app import wait_until
from support.mcp_server import DOCS, SECRET, Seen, call_of, calling, kinds
from support.responses_api import MODEL, RESPONSES, WEATHER, respond, settled, stream
from support.tool_fixtures import mcp_fixtures

url_and_server, seen = mcp_fixtures()


def test_mcp_when_the_model_calls_a_tool_then_it_is_run_and_the_model_goes_on(
    client: httpx.Client, server: FakeModelServer, seen: Seen
) -> None:
    server.scripts = [answer(calling("search"))]
    told = respond(client, tools=[{**DOCS, "server_description": "All documents."}])
    assert kinds(told["output"]) == ["mcp_list_tools", "reasoning", "mcp_call", "reasoning", "message"]
    call = call_of(told)
    assert call["id"].startswith("mcp_")
    assert call == {
        "id": call["id"],
        "type": "mcp_call",
        "status": "completed",
        "server_label": "docs",
        "name": "search",
        "arguments": '{"query": "x"}',
        "approval_request_id": None,
        "error": None,
        "output": "Found: x",
    }
    assert (seen.calls, seen.authorizations) == ([("search", "x")], {SECRET})
    assert told["tools"] == [{**DOCS, "server_description": "All documents."}]
    first, second = server.chats
    assert [tool.name for tool in first.tools] == [
        f"docs__{name}" for name in ("search", "delete", "fail", "long", "picture", "wait")
    ]
    assert first.tools[0].description == "All documents.\n\nSearch the documents."
    assert first.tools == second.tools
    assert second.messages == (
        ChatMessage(Role.USER, "Hi"),
        ChatMessage(Role.ASSISTANT, None, "Look it up.", (ToolCall(call["id"], "docs__search", '{"query": "x"}'),)),
        ChatMessage(Role.TOOL, "Found: x", tool_call_id=call["id"]),
    )


def test_mcp_when_there_are_several_turns_then_usage_and_log_tell_their_sum(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(calling("search"))]
    usage = respond(client, tools=[DOCS])["usage"]
    num = len(token_ids(calling("search"))) + len(HELLO) - 1
    assert usage == {
        "input_tokens": 2 * PROMPT_TOKENS,
        "input_tokens_details": {
            "cached_tokens": 2 * CACHED_TOKENS,
            "cache_write_tokens": 2 * (PROMPT_TOKENS - CACHED_TOKENS),
        },
        "output_tokens": num,
        "output_tokens_details": {"reasoning_tokens": usage["output_tokens_details"]["reasoning_tokens"]},
        "total_tokens": 2 * PROMPT_TOKENS + num,
    }


def test_turn_when_it_calls_two_tools_then_both_are_run_in_their_order(
    client: httpx.Client, server: FakeModelServer, seen: Seen
) -> None:
    server.scripts = [answer(f"{calling('search')}<|start|>assistant{calling('search', {'query': 'y'})}")]
    events = stream(client, tools=[DOCS])
    assert seen.calls == [("search", "x"), ("search", "y")]
    done = [event for event in events if event["type"] == "response.output_item.done"]
    assert [event["output_index"] for event in done] == [0, 1, 3, 2, 4, 5, 6]
    assert [item["output"] for item in events[-1]["response"]["output"] if item["type"] == "mcp_call"] == [
        "Found: x",
        "Found: y",
    ]


def test_result_when_it_is_long_or_no_text_then_the_model_is_told_what_is_missing(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(calling("long", {})), answer(calling("picture", {}))]
    told = respond(client, tools=[DOCS])
    long, picture = (item["output"] for item in told["output"] if item["type"] == "mcp_call")
    assert long.startswith("word word")
    assert long.endswith("[This result is cut: of its 10000 characters these are the first 1024.]")
    assert "image/png" in picture
    assert server.chats[2].messages[-1].content == picture


def test_background_when_the_model_calls_a_tool_then_it_is_run(client: httpx.Client, server: FakeModelServer) -> None:
    server.scripts = [answer(calling("search"))]
    done = settled(client, respond(client, tools=[DOCS], background=True)["id"])
    assert (done["status"], call_of(done)["output"]) == ("completed", "Found: x")


def test_log_when_tools_were_called_then_its_line_says_how_many_and_what_all_turns_have_cost(
    client: httpx.Client, server: FakeModelServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.scripts = [answer(calling("search")), answer(calling("delete", {"name": "x"}))]
    caplog.handler.addFilter(RequestIdFilter())
    with caplog.at_level(logging.INFO, "gptoss_adapter.edge"):
        respond(client, tools=[DOCS])
        wait_until(lambda: "/v1/responses 200" in caplog.text)
    [line] = [TextFormatter().format(one) for one in caplog.records if one.name == "gptoss_adapter.edge"]
    assert {"mcp_calls=2", f"prompt_tokens={3 * PROMPT_TOKENS}", "outcome=stop"} <= set(line.split())


def test_metrics_when_tools_were_called_then_they_count_them(client: httpx.Client, server: FakeModelServer) -> None:
    def count(outcome: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        name = f'gptoss_mcp_calls_total{{outcome="{outcome}",server="docs"}} '
        return float(next(line for line in lines if line.startswith(name)).removeprefix(name))

    before = count("completed")
    server.scripts = [answer(calling("search"))]
    respond(client, tools=[DOCS])
    assert count("completed") == before + 1


# --- what is offered --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "names"),
    [
        (["search", "wait"], ["search", "wait"]),
        ({"tool_names": ["delete"]}, ["delete"]),
        ({"read_only": True}, ["search"]),
        ({"read_only": False, "tool_names": ["search", "delete"]}, ["delete"]),
    ],
)
def test_tools_when_some_are_allowed_then_the_model_and_the_list_tell_only_those(
    client: httpx.Client, server: FakeModelServer, allowed: object, names: list[str]
) -> None:
    told = respond(client, tools=[{**DOCS, "allowed_tools": allowed}, WEATHER])
    assert [tool.name for tool in server.chats[0].tools] == [*(f"docs__{name}" for name in names), "weather"]
    listed = told["output"][0]
    assert [tool["name"] for tool in listed["tools"]] == names
    assert listed["id"].startswith("mcpl_")
    assert listed["tools"][0]["input_schema"]["type"] == "object"


def test_tool_of_a_server_when_offered_then_its_schema_is_the_functions(
    client: httpx.Client, server: FakeModelServer
) -> None:
    told = respond(client, tools=[{**DOCS, "allowed_tools": ["delete"]}])
    schema = told["output"][0]["tools"][0]["input_schema"]
    assert server.chats[0].tools == (FunctionTool("docs__delete", "Delete a document.", schema, strict=False),)


@pytest.mark.parametrize(
    ("choice", "asked", "offered"),
    [
        ("required", ToolChoice(ToolChoiceMode.REQUIRED), ["docs__search", "weather"]),
        (
            {"type": "mcp", "server_label": "docs", "name": "search"},
            ToolChoice(ToolChoiceMode.REQUIRED, "docs__search"),
            ["docs__search", "weather"],
        ),
        ({"type": "mcp", "server_label": "docs"}, ToolChoice(ToolChoiceMode.REQUIRED), ["docs__search"]),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "mcp", "server_label": "docs"}]},
            ToolChoice(ToolChoiceMode.REQUIRED),
            ["docs__search"],
        ),
    ],
)
def test_tool_choice_when_it_demands_a_call_then_only_the_first_turn_is_held_to_it(
    client: httpx.Client, server: FakeModelServer, choice: object, asked: ToolChoice, offered: list[str]
) -> None:
    server.scripts = [answer(calling("search"))]
    told = respond(client, tools=[{**DOCS, "allowed_tools": ["search"]}, WEATHER], tool_choice=choice)
    assert told["tool_choice"] == choice
    first, second = server.chats
    assert (first.tool_choice, [tool.name for tool in first.tools]) == (asked, offered)
    assert second.tool_choice == ToolChoice()


def test_input_tokens_when_there_are_mcp_tools_then_they_are_counted(
    client: httpx.Client, server: FakeModelServer
) -> None:
    body = {"model": MODEL, "input": "Hi", "tools": [{**DOCS, "allowed_tools": ["search"]}]}
    assert client.post(f"{RESPONSES}/input_tokens", json=body).json()["input_tokens"] == PROMPT_TOKENS
    assert [tool.name for tool in server.chats[0].tools] == ["docs__search"]

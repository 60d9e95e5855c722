"""POST /v1/responses with tools of type mcp: a scripted model, and a real MCP server over a socket."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gptoss_adapter.errors import ContextLengthExceededError, ServiceUnavailableError, TooManyRequestsError
from gptoss_adapter.logs import RequestIdFilter, TextFormatter
from gptoss_backend.contract import ChatMessage, FinishReason, FunctionTool, Role, ToolCall, ToolChoice, ToolChoiceMode
from support.fake_model_server import CACHED_TOKENS, FOREVER, HELLO, PROMPT_TOKENS, FakeModelServer, answer, token_ids
from support.live_app import wait_until
from support.mcp_server import DOCS, SECRET, Seen, calling, kinds, mcp_server
from support.responses_api import CALL, MODEL, RESPONSES, WEATHER, refusal, respond, serving, settled, stream


@pytest.fixture(scope="module")
def seen() -> Seen:
    return Seen()


@pytest.fixture(scope="module")
def url_and_server(tmp_path_factory: pytest.TempPathFactory, seen: Seen) -> Iterator[tuple[str, FakeModelServer]]:
    server = FakeModelServer()
    store = tmp_path_factory.mktemp("store") / "responses.sqlite"
    with mcp_server(seen) as mcp_url:
        servers = {
            "docs": {"url": mcp_url, "headers": {"Authorization": SECRET}},
            "down": "http://127.0.0.1:9/mcp",
            "other": mcp_url.replace("/mcp", "/nothing"),
        }
        with serving(store, server, mcp_servers=servers, mcp_timeout_s=1.0, mcp_max_result_chars=1024) as url:
            yield url, server


@pytest.fixture
def server(url_and_server: tuple[str, FakeModelServer], seen: Seen) -> FakeModelServer:
    url_and_server[1].forget()
    seen.forget()
    return url_and_server[1]


def call_of(told: dict[str, Any]) -> dict[str, Any]:
    [call] = [item for item in told["output"] if item["type"] == "mcp_call"]
    return call


# --- the way --------------------------------------------------------------------------------------------------------


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


def test_stream_when_the_model_calls_a_tool_then_all_events_come_in_openais_order(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(calling("search"), tokens_a_step=1000)]
    events = stream(client, tools=[DOCS])
    names = [event["type"].removeprefix("response.") for event in events]
    assert names[:6] == [
        "created",
        "in_progress",
        "output_item.added",
        "mcp_list_tools.in_progress",
        "mcp_list_tools.completed",
        "output_item.done",
    ]
    about_call = [event for event in events if event.get("output_index") == 2]
    assert [event["type"].removeprefix("response.") for event in about_call] == [
        "output_item.added",
        "mcp_call.in_progress",
        "mcp_call_arguments.delta",
        "mcp_call_arguments.done",
        "mcp_call.completed",
        "output_item.done",
    ]
    added, *_, arguments, _, done = about_call
    assert (added["item"]["status"], added["item"]["arguments"], added["item"]["output"]) == ("in_progress", "", None)
    assert arguments["arguments"] == '{"query": "x"}'
    assert done["item"] == events[-1]["response"]["output"][2]
    items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert items == events[-1]["response"]["output"]
    assert names[-1] == "completed"


def test_stream_when_openais_client_reads_it_then_it_gathers_the_same_response(
    url_and_server: tuple[str, FakeModelServer], server: FakeModelServer
) -> None:
    server.scripts = [answer(calling("search"))]
    with (
        openai.OpenAI(base_url=f"{url_and_server[0]}/v1", api_key="none") as official,
        official.responses.stream(
            model=MODEL, input="Hi", tools=[{"type": "mcp", "server_label": "docs", "require_approval": "never"}]
        ) as events,
    ):
        told = [event.type for event in events]
        response = events.get_final_response()
    assert "response.mcp_call.completed" in told
    assert response.output_text == "Hello!"
    [call] = [item for item in response.output if item.type == "mcp_call"]
    assert (call.output, call.error) == ("Found: x", None)


def test_background_when_the_model_calls_a_tool_then_it_is_run(client: httpx.Client, server: FakeModelServer) -> None:
    server.scripts = [answer(calling("search"))]
    done = settled(client, respond(client, tools=[DOCS], background=True)["id"])
    assert (done["status"], call_of(done)["output"]) == ("completed", "Found: x")


@pytest.mark.parametrize("kept", [True, False])
def test_conversation_when_it_goes_on_then_the_model_sees_the_calls_and_no_list_is_told_again(
    client: httpx.Client, server: FakeModelServer, seen: Seen, kept: bool
) -> None:
    server.scripts = [answer(calling("search"))]
    first = respond(client, tools=[DOCS], store=kept)
    num_requests = seen.num_requests
    hi = {"role": "user", "content": "Hi"}
    if kept:
        told = respond(client, [hi], tools=[DOCS], previous_response_id=first["id"])
    else:
        told = respond(client, [hi, *first["output"], hi], tools=[DOCS], store=False)
    assert kinds(told["output"]) == ["reasoning", "message"]
    assert [message.role for message in server.chats[2].messages] == ["user", "assistant", "tool", "assistant", "user"]
    assert server.chats[2].messages[2].content == "Found: x"
    assert seen.num_requests - num_requests <= 1  # its session's end; the list is remembered
    if kept:
        items = client.get(f"{RESPONSES}/{told['id']}/input_items", params={"order": "asc"}).json()["data"]
        assert kinds(items)[:4] == ["message", "mcp_list_tools", "reasoning", "mcp_call"]


def test_conversation_when_it_goes_on_without_the_tool_then_the_model_sees_the_calls_all_the_same(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(calling("search"))]
    first = respond(client, tools=[DOCS])
    respond(client, previous_response_id=first["id"])
    assert server.chats[2].messages[1].tool_calls[0].name == "docs__search"
    assert server.chats[2].tools == ()


NOTE = {"type": "custom", "name": "note"}
CALL_NOTE = "<|channel|>analysis<|message|>Note it.<|end|><|start|>assistant<|channel|>commentary to=functions.note"


@pytest.mark.parametrize(
    ("tool", "called", "kind"),
    [
        (WEATHER, CALL, "function_call"),
        (NOTE, CALL_NOTE + ' <|constrain|>json<|message|>{"input":"x"}<|call|>', "custom_tool_call"),
    ],
)
def test_turn_when_it_calls_tools_of_both_sides_then_servers_are_run_and_the_response_ends_with_the_clients(
    client: httpx.Client, server: FakeModelServer, seen: Seen, tool: dict[str, Any], called: str, kind: str
) -> None:
    server.scripts = [answer(f"{calling('search')}<|start|>assistant{called}")]
    told = respond(client, tools=[DOCS, tool])
    assert kinds(told["output"])[1:] == ["reasoning", "mcp_call", "reasoning", kind]
    assert (told["status"], call_of(told)["output"], seen.calls) == ("completed", "Found: x", [("search", "x")])
    result = {"type": f"{kind}_output", "call_id": told["output"][-1]["call_id"], "output": "Snow"}
    respond(client, [result], tools=[DOCS, tool], previous_response_id=told["id"])
    assert [message.content for message in server.chats[1].messages] == ["Hi", None, "Found: x", None, "Snow"]


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


# --- what is offered ------------------------------------------------------------------------------------------------


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


# --- what is not ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "param", "words"),
    [
        ({"server_label": "web"}, "tools[0].server_label", "has no MCP server 'web'; it has 'docs', 'down', 'other'"),
        ({"server_url": "http://10.0.0.1/mcp"}, "tools[0].server_url", "connects to the MCP servers of its operator"),
        ({"authorization": "abc"}, "tools[0].authorization", "adapter.mcp_servers"),
        ({"headers": {"a": "b"}}, "tools[0].headers", "adapter.mcp_servers"),
        ({"connector_id": "connector_gmail"}, "tools[0].connector_id", "server_label"),
        ({"tunnel_id": "t"}, "tools[0].tunnel_id", "server_label"),
        ({"require_approval": "sometimes"}, "tools[0].require_approval", "'always' or 'never'"),
        ({"allowed_tools": {}}, "tools[0].allowed_tools", "tool_names"),
        ({"allowed_tools": ["nope"]}, "tools", "has no tool 'nope'; it has search, delete"),
        ({"defer_loading": True}, "tools[0].defer_loading", "does not honour"),
        ({"colour": 1}, "tools[0].colour", "Unknown parameter"),
    ],
)
def test_tool_when_it_asks_for_what_is_not_there_then_400_says_so(
    client: httpx.Client, seen: Seen, tool: dict[str, Any], param: str, words: str
) -> None:
    error = refusal(client, tools=[{**DOCS, **tool}])
    assert error["param"] == param
    assert words in error["message"]
    assert seen.calls == []


def test_tool_when_its_url_is_the_operators_then_it_is_taken(
    client: httpx.Client, url_and_server: tuple[str, FakeModelServer]
) -> None:
    other = {**DOCS, "server_label": "down", "server_url": "http://127.0.0.1:9/mcp"}
    assert refusal(client, 424, tools=[other])["code"] == "http_error"


def test_tools_when_a_server_is_named_twice_then_400(client: httpx.Client) -> None:
    assert refusal(client, tools=[DOCS, DOCS])["param"] == "tools[1].server_label"


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "mcp", "server_label": "web"},
        {"type": "mcp", "server_label": "docs", "name": "nope"},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp", "server_label": "web"}]},
    ],
)
def test_tool_choice_when_it_names_what_is_not_offered_then_400(client: httpx.Client, choice: object) -> None:
    error = refusal(client, tools=[DOCS], tool_choice=choice)
    assert (error["param"], error["code"]) == ("tool_choice", "invalid_value")


def test_server_without_mcp_servers_when_one_is_asked_for_then_400_says_where_they_are_set(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "responses.sqlite", FakeModelServer()) as url,
        httpx.Client(base_url=url) as client,
    ):
        assert "adapter.mcp_servers" in refusal(client, tools=[DOCS])["message"]


# --- servers that fail ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["down", "other"])
def test_listing_when_it_fails_then_424_in_openais_words_and_the_server_is_healthy(
    client: httpx.Client, label: str
) -> None:
    error = refusal(client, 424, tools=[{**DOCS, "server_label": label}])
    assert error["message"].startswith(f"Error retrieving tool list from MCP server: '{label}'.")
    assert (error["type"], error["param"], error["code"]) == ("external_connector_error", "tools", "http_error")
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("background", [False, True])
def test_listing_when_it_fails_in_a_stream_then_the_events_tell_of_it(client: httpx.Client, background: bool) -> None:
    events = stream(client, tools=[DOCS, {**DOCS, "server_label": "down"}], background=background)
    about = [event["type"].removeprefix("response.") for event in events if event.get("output_index") == 1]
    assert about == ["output_item.added", "mcp_list_tools.in_progress", "mcp_list_tools.failed", "output_item.done"]
    failed = events[-1]["response"]
    assert (events[-1]["type"], failed["status"]) == ("response.failed", "failed")
    assert failed["error"]["message"] == failed["output"][1]["error"]
    assert failed["output"][1]["tools"] == []


@pytest.mark.parametrize(
    ("tool", "arguments", "error", "told"),
    [
        ("fail", {}, "mcp_tool_execution_error", "The tool failed: Error executing tool fail: no such shelf"),
        ("search", '{"query"', "mcp_protocol_error", "This call failed: The arguments are no JSON object."),
        ("search", "[1]", "mcp_protocol_error", "This call failed: The arguments are no JSON object."),
        ("wait", {"seconds": 30}, "http_error", "This call failed: The MCP server did not answer within 1 s."),
    ],
)
def test_call_when_it_fails_then_the_item_says_so_and_the_model_is_told(
    client: httpx.Client, server: FakeModelServer, tool: str, arguments: object, error: str, told: str
) -> None:
    server.scripts = [answer(calling(tool, arguments))]
    events = stream(client, tools=[DOCS])
    response = events[-1]["response"]
    call = call_of(response)
    assert (response["status"], call["status"], call["error"]["type"], call["output"]) == (
        "completed",
        "failed",
        error,
        None,
    )
    assert "response.mcp_call.failed" in [event["type"] for event in events]
    assert server.chats[1].messages[-1].content == told


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


# --- what bounds it -------------------------------------------------------------------------------------------------


def test_max_tool_calls_when_reached_then_no_more_are_run_and_the_model_answers_without(
    client: httpx.Client, server: FakeModelServer, seen: Seen
) -> None:
    server.scripts = [answer(calling("search")), answer(calling("search", {"query": "y"}))]
    told = respond(client, tools=[DOCS, WEATHER], max_tool_calls=1)
    first, second = (item for item in told["output"] if item["type"] == "mcp_call")
    assert (first["status"], second["status"], second["error"]["code"]) == ("completed", "failed", -32000)
    assert seen.calls == [("search", "x")]
    assert [len(chat.tools) for chat in server.chats] == [7, 7, 1]
    assert "no more than 1" in str(server.chats[2].messages[-1].content)
    assert told["output"][-1]["type"] == "message"
    assert told["max_tool_calls"] == 1


def test_max_output_tokens_when_given_then_it_holds_over_all_turns(
    client: httpx.Client, server: FakeModelServer
) -> None:
    num = len(token_ids(calling("search")))
    server.scripts = [answer(calling("search"))]
    respond(client, tools=[DOCS], max_output_tokens=num + 40)
    assert [sampling.max_tokens for sampling in server.samplings] == [num + 40, 40]


def test_max_output_tokens_when_spent_then_a_call_is_not_run_and_the_response_is_incomplete(
    client: httpx.Client, server: FakeModelServer, seen: Seen
) -> None:
    num = len(token_ids(calling("search")))
    server.scripts = [answer(calling("search"))]
    told = respond(client, tools=[DOCS], max_output_tokens=num)
    assert (told["status"], told["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (call_of(told)["status"], seen.calls) == ("incomplete", [])
    respond(client, tools=[DOCS], previous_response_id=told["id"])
    assert all(not message.tool_calls for message in server.chats[1].messages)


def test_call_when_it_is_cut_then_it_is_not_run(client: httpx.Client, server: FakeModelServer, seen: Seen) -> None:
    server.scripts = [answer(calling("search").removesuffix('"x"}<|call|>'), reason=FinishReason.LENGTH)]
    told = respond(client, tools=[DOCS])
    assert (told["status"], call_of(told)["status"], seen.calls) == ("incomplete", "incomplete", [])


def test_time_when_the_profile_bounds_it_then_a_tool_is_cut_off_with_504(
    tmp_path: Path, server: FakeModelServer, seen: Seen
) -> None:
    server.scripts = [answer(calling("wait", {"seconds": 5}))]
    profiles = {"balanced": {"model": "20b", "request_timeout_s": 0.4}}
    with (
        mcp_server(seen) as mcp_url,
        serving(tmp_path / "r.sqlite", server, mcp_servers={"docs": mcp_url}, profiles=profiles) as url,
        httpx.Client(base_url=url) as client,
    ):
        error = refusal(client, 504, tools=[DOCS])
        assert (error["code"], seen.calls) == ("deadline_exceeded", [("wait", 5)])
        server.scripts = [answer(calling("search"))]
        respond(client, tools=[DOCS])
    first, second = (sampling.timeout_s for sampling in server.samplings[1:])
    assert first is not None
    assert second is not None
    assert 0 < second < first <= 0.4


def test_context_when_a_result_leaves_no_room_then_the_response_is_incomplete_and_tells_the_call(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(calling("search")), [ContextLengthExceededError("Too long.")]]
    told = respond(client, tools=[DOCS])
    assert (told["status"], told["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert call_of(told)["output"] == "Found: x"


@pytest.mark.parametrize(
    ("script", "status"),
    [([TooManyRequestsError("Later.")], 429), ([ServiceUnavailableError("Gone.")], 503), ([ValueError("odd")], 500)],
)
def test_answer_when_it_fails_after_a_tool_was_run_then_clients_are_told_not_to_try_again_by_themselves(
    client: httpx.Client, server: FakeModelServer, seen: Seen, script: list[Any], status: int
) -> None:
    body = {"model": MODEL, "input": "Hi", "tools": [DOCS]}
    server.script = script
    assert "x-should-retry" not in client.post(RESPONSES, json=body).headers
    server.scripts = [answer(calling("delete", {"name": "x"}))]
    response = client.post(RESPONSES, json=body)
    assert (response.status_code, response.headers["x-should-retry"]) == (status, "false")
    assert seen.calls == [("delete", "x")]


# --- those who leave ------------------------------------------------------------------------------------------------


def test_stream_when_its_client_leaves_while_a_tool_runs_then_the_call_is_cancelled_and_the_log_says_so(
    client: httpx.Client, server: FakeModelServer, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gptoss_adapter.edge")
    caplog.handler.addFilter(RequestIdFilter())
    server.scripts = [answer(calling("wait", {"seconds": 0.9}))]
    body = {"model": MODEL, "input": "Hi", "tools": [DOCS], "stream": True}
    with client.stream("POST", RESPONSES, json=body) as response:
        lines = response.iter_lines()
        next(line for line in lines if "mcp_call_arguments.done" in line)
        wait_until(lambda: bool(seen.calls))
    wait_until(lambda: seen.cancelled == ["wait"], 1.0)
    assert len(server.chats) == 1
    wait_until(lambda: "/v1/responses 200" in caplog.text)
    [line] = [TextFormatter().format(one) for one in caplog.records if one.name == "gptoss_adapter.edge"]
    assert {"mcp_calls=1", "outcome=cancelled"} <= set(line.split())


def test_whole_answer_when_its_client_leaves_while_a_tool_runs_then_the_call_is_cancelled(
    client: httpx.Client, server: FakeModelServer, seen: Seen
) -> None:
    server.scripts = [answer(calling("wait", {"seconds": 0.9}))]
    with pytest.raises(httpx.ReadTimeout):
        client.post(RESPONSES, json={"model": MODEL, "input": "Hi", "tools": [DOCS]}, timeout=0.4)
    wait_until(lambda: seen.cancelled == ["wait"], 1.0)


def test_background_when_it_is_cancelled_while_a_tool_runs_then_the_call_is_too_and_its_item_says_so(
    client: httpx.Client, server: FakeModelServer, seen: Seen
) -> None:
    server.scripts = [answer(calling("wait", {"seconds": 0.9}))]
    told = respond(client, tools=[DOCS], background=True)
    wait_until(lambda: bool(seen.calls))
    cancelled = client.post(f"{RESPONSES}/{told['id']}/cancel").json()
    assert cancelled["status"] == "cancelled"
    assert (call_of(cancelled)["status"], call_of(cancelled)["error"]["code"]) == ("failed", -32000)
    wait_until(lambda: seen.cancelled == ["wait"], 1.0)


def test_client_when_it_leaves_amid_a_later_turn_then_the_generation_is_cancelled(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(calling("search")), [*HELLO[:5], FOREVER]]
    body = {"model": MODEL, "input": "Hi", "tools": [DOCS], "stream": True}
    with client.stream("POST", RESPONSES, json=body) as response:
        lines = response.iter_lines()
        next(line for line in lines if "mcp_call.completed" in line)
        wait_until(lambda: len(server.streams) == 2)
    wait_until(lambda: server.streams[1].abandoned, 1.0)


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


def test_tool_of_a_server_when_offered_then_its_schema_is_the_functions(
    client: httpx.Client, server: FakeModelServer
) -> None:
    told = respond(client, tools=[{**DOCS, "allowed_tools": ["delete"]}])
    schema = told["output"][0]["tools"][0]["input_schema"]
    assert server.chats[0].tools == (FunctionTool("docs__delete", "Delete a document.", schema, strict=False),)

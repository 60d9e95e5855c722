"""POST /v1/responses with OpenAI's own tools: a scripted model, and real MCP servers over sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gptoss_backend.contract import (
    BuiltinName,
    BuiltinTool,
    ChatMessage,
    FinishReason,
    Role,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
)
from support.fake_model_server import FakeModelServer, answer, token_ids
from support.hosted_servers import (
    ABOUT_PYTHON,
    CODE,
    SEARCH,
    TOWER,
    Browsed,
    browsing,
    coding,
    hosted_servers,
    saying,
)
from support.live_app import wait_until
from support.mcp_server import kinds
from support.responses_api import (
    CALL,
    MODEL,
    RESPONSES,
    WEATHER,
    events_of,
    refusal,
    respond,
    serving,
    settled,
    stream,
)

ADDRESS = "https://tower.example/height?of=a%20b"
ALL = ["web_search_call.results", "web_search_call.action.sources", "code_interpreter_call.outputs"]
BROWSER, PYTHON = BuiltinTool(BuiltinName.BROWSER), BuiltinTool(BuiltinName.PYTHON, ABOUT_PYTHON)


@pytest.fixture(scope="module")
def seen() -> Browsed:
    return Browsed()


@pytest.fixture(scope="module")
def url_and_server(tmp_path_factory: pytest.TempPathFactory, seen: Browsed) -> Iterator[tuple[str, FakeModelServer]]:
    server = FakeModelServer()
    store = tmp_path_factory.mktemp("store") / "responses.sqlite"
    with (
        hosted_servers(seen) as mcp_servers,
        serving(
            store,
            server,
            mcp_servers=mcp_servers,
            hosted_tools={"web_search": "browser", "code_interpreter": "python"},
            mcp_timeout_s=5.0,
        ) as url,
    ):
        yield url, server


@pytest.fixture
def server(url_and_server: tuple[str, FakeModelServer], seen: Browsed) -> FakeModelServer:
    url_and_server[1].forget()
    seen.forget()
    return url_and_server[1]


def of_kind(told: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [item for item in told["output"] if item["type"] == kind]


def names(events: list[dict[str, Any]], output_index: int) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events if event.get("output_index") == output_index]


# --- searching ------------------------------------------------------------------------------------------------------


def test_web_search_when_the_model_searches_opens_and_finds_then_one_browser_does_and_the_answer_tells_each(
    client: httpx.Client, server: FakeModelServer, seen: Browsed
) -> None:
    turns = [browsing("search", query="tower"), browsing("open", id=0), browsing("find", pattern="330")]
    server.scripts = [*map(answer, turns), answer(saying("330 m 【1†L0-L1】."))]
    told = respond(client, tools=[SEARCH], include=ALL)
    assert seen.calls == [("search", "tower"), ("open", 0), ("find", "330")]
    assert len(seen.browsers) == 1
    search, opened, found = of_kind(told, "web_search_call")
    sites = ["https://tower.example", "https://bridge.example"]
    assert search["action"] == {
        "type": "search",
        "query": "tower",
        "queries": ["tower"],
        "sources": [{"type": "url", "url": site} for site in sites],
    }
    assert opened["action"] == {"type": "open_page", "url": ADDRESS}
    assert found["action"] == {"type": "find_in_page", "pattern": "330", "url": ADDRESS}
    assert {item["status"] for item in (search, opened, found)} == {"completed"}
    assert opened["arguments"] == '{"id": 0}'
    assert opened["results"].startswith(f"[1] Tower (iron) ({TOWER})\n")
    assert told["tools"] == [SEARCH]


def test_web_search_when_a_page_is_cited_then_the_text_is_annotated(
    client: httpx.Client, server: FakeModelServer
) -> None:
    text = "🗼 It is 330 m 【1†L0】, it is said 【0†L0】【7†L1】【2†L3-L4】."
    turns = [browsing("search", query="tower"), browsing("open", id=0), browsing("find", pattern="330")]
    server.scripts = [*map(answer, turns), answer(saying(text))]
    events = stream(client, tools=[SEARCH])
    part = events[-1]["response"]["output"][-1]["content"][0]
    assert part["text"] == text
    marks = ["【1†L0】", "【2†L3-L4】"]
    assert [text[one["start_index"] : one["end_index"]] for one in part["annotations"]] == marks
    assert {(one["url"], one["title"]) for one in part["annotations"]} == {(ADDRESS, "Tower (iron)")}
    added = [event for event in events if event["type"] == "response.output_text.annotation.added"]
    assert [event["annotation"] for event in added] == part["annotations"]
    assert [event["annotation_index"] for event in added] == [0, 1]
    assert {event["content_index"] for event in added} == {0}


def test_stream_when_the_model_searches_then_all_events_come_in_openais_order(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(browsing("search", query="tower"))]
    events = stream(client, tools=[SEARCH])
    assert names(events, 1) == [
        "output_item.added",
        "web_search_call.in_progress",
        "web_search_call.searching",
        "web_search_call.completed",
        "output_item.done",
    ]
    about = [event for event in events if event.get("output_index") == 1]
    action = {"type": "search", "query": "tower", "queries": ["tower"]}
    item = {"id": about[0]["item"]["id"], "type": "web_search_call", "action": action}
    assert about[0]["item"] == {**item, "status": "in_progress"}
    assert about[-1]["item"] == {**item, "status": "completed"} == events[-1]["response"]["output"][1]


def test_model_when_it_goes_on_then_it_sees_its_call_and_the_result(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(browsing("search", query="tower")), answer(coding("1 + 1"))]
    told = respond(client, tools=[CODE, WEATHER, SEARCH])
    assert kinds(told["output"]) == [
        *("reasoning", "web_search_call", "reasoning", "code_interpreter_call", "reasoning", "message")
    ]
    assert {chat.builtin_tools for chat in server.chats} == {(PYTHON, BROWSER)}
    assert [tool.name for tool in server.chats[0].tools] == ["weather"]
    searched, coded = (told["output"][at]["id"] for at in (1, 3))
    _, search, found, code, ran = server.chats[2].messages
    call = ToolCall(searched, "browser.search", '{"query": "tower"}', is_builtin=True)
    assert search == ChatMessage(Role.ASSISTANT, None, "Look it up.", (call,))
    assert found.tool_call_id == searched
    assert (found.content or "").startswith("[0] tower\n")
    assert code.tool_calls == (ToolCall(coded, "python", "1 + 1", is_builtin=True),)
    assert ran == ChatMessage(Role.TOOL, "ran 1 + 1\n", tool_call_id=coded)


def test_open_when_it_scrolls_or_fails_then_the_answer_tells_the_page_it_knows(
    client: httpx.Client, server: FakeModelServer
) -> None:
    turns = [browsing("open", id=TOWER), browsing("open", loc=3), browsing("open", id=99), browsing("open", cursor=0)]
    server.scripts = [answer(turn) for turn in turns]
    events = stream(client, tools=[SEARCH])
    items = of_kind(events[-1]["response"], "web_search_call")
    assert [item["action"]["url"] for item in items] == [ADDRESS, ADDRESS, None, ADDRESS]
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    urls = [item["action"]["url"] for item in added if item["type"] == "web_search_call"]
    assert urls == [TOWER, ADDRESS, None, ADDRESS]


@pytest.mark.parametrize("kind", ["web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11"])
def test_web_search_when_it_goes_by_another_type_then_it_is_the_same(
    client: httpx.Client, server: FakeModelServer, kind: str
) -> None:
    assert respond(client, tools=[{"type": kind}])["tools"] == [{"type": kind}]
    assert server.chats[0].builtin_tools == (BROWSER,)


# --- code -----------------------------------------------------------------------------------------------------------


def test_stream_when_the_model_has_code_run_then_all_events_come_in_openais_order(
    client: httpx.Client, server: FakeModelServer, seen: Browsed
) -> None:
    code = 'print("é")\n'
    server.scripts = [answer(coding(code), tokens_a_step=1000)]
    events = stream(client, tools=[CODE], include=["code_interpreter_call.outputs"])
    assert names(events, 1) == [
        "output_item.added",
        "code_interpreter_call.in_progress",
        "code_interpreter_call_code.delta",
        "code_interpreter_call_code.done",
        "code_interpreter_call.interpreting",
        "code_interpreter_call.completed",
        "output_item.done",
    ]
    added, _, delta, whole, *_, done = [event for event in events if event.get("output_index") == 1]
    assert (added["item"]["status"], added["item"]["code"], added["item"]["outputs"]) == ("in_progress", "", None)
    assert (delta["delta"], whole["code"], seen.calls) == (code, code, [("python", code)])
    assert done["item"]["outputs"] == [{"type": "logs", "logs": f"ran {code}\n"}]
    assert done["item"]["container_id"].startswith("cntr_")
    assert events[-1]["response"]["tools"] == [CODE]


def test_outputs_when_nobody_asks_for_them_then_they_are_kept_and_told_once_somebody_does(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(coding("1")), answer(browsing("open", id=TOWER)), answer(saying("It is 【0†L0】."))]
    told = respond(client, tools=[CODE, SEARCH])
    path = f"{RESPONSES}/{told['id']}"
    assert client.get(path).json() == told
    [call], [opened] = of_kind(told, "code_interpreter_call"), of_kind(told, "web_search_call")
    assert (call["outputs"], "results" in opened, "arguments" in opened) == (None, False, False)
    assert len(told["output"][-1]["content"][0]["annotations"]) == 1
    more = client.get(path, params={"include": ALL}).json()
    assert of_kind(more, "code_interpreter_call")[0]["outputs"] == [{"type": "logs", "logs": "ran 1\n"}]
    assert of_kind(more, "web_search_call")[0]["results"].startswith("[0] Tower")
    assert more["output"][-1] == told["output"][-1]


# --- conversations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kept", "sent_back", "include"), [(True, False, []), (True, True, []), (False, True, ALL)])
def test_conversation_when_a_function_was_called_behind_others_then_the_model_sees_their_results_again(
    client: httpx.Client, server: FakeModelServer, kept: bool, sent_back: bool, include: list[str]
) -> None:
    server.scripts = [answer(browsing("open", id=TOWER, loc=0)), answer(coding("1")), answer(CALL)]
    hi, tools = {"role": "user", "content": "Hi"}, [SEARCH, CODE, WEATHER]
    first = respond(client, [hi], tools=tools, store=kept, include=include)
    result = {"type": "function_call_output", "call_id": first["output"][-1]["call_id"], "output": "Snow"}
    if sent_back:
        respond(client, [hi, *first["output"], result], tools=tools, store=False)
    else:
        respond(client, [result], tools=tools, previous_response_id=first["id"])
    before, again = server.chats[2].messages, server.chats[3].messages
    assert again[: len(before)] == before
    assert [message.role for message in again] == ["user", *["assistant", "tool"] * 3]


def test_conversation_when_results_were_not_told_then_the_model_is_told_that_they_are_not_known(
    client: httpx.Client, server: FakeModelServer
) -> None:
    items = [
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}},
        {"type": "web_search_call", "id": "ws_2", "status": "completed", "action": {"type": "open_page", "url": TOWER}},
        {
            "type": "web_search_call",
            "id": "ws_3",
            "status": "completed",
            "action": {"type": "find_in_page", "pattern": "y", "url": TOWER},
        },
        {
            "type": "code_interpreter_call",
            "id": "ci_1",
            "status": "completed",
            "code": "1",
            "container_id": "cntr_1",
            "outputs": [{"type": "logs", "logs": "a"}, {"type": "image", "url": "https://a.example/b.png"}],
        },
        {"type": "web_search_call", "id": "ws_4", "status": "incomplete", "action": {"type": "search", "query": "z"}},
    ]
    respond(client, [{"role": "user", "content": "Hi"}, *items])
    messages = server.chats[0].messages
    calls = [(call.name, call.arguments) for message in messages for call in message.tool_calls]
    assert calls == [
        ("browser.search", '{"query": "x"}'),
        ("browser.open", f'{{"id": "{TOWER}"}}'),
        ("browser.find", '{"pattern": "y"}'),
        ("python", "1"),
    ]
    results = [message.content for message in messages if message.role is Role.TOOL]
    assert results[:3] == ["What came of this call is not known."] * 3
    assert results[3] == "a\n[Here is a picture, which this model cannot see.]"


def test_conversation_when_it_goes_on_then_pages_of_before_can_be_cited(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(browsing("open", id=TOWER)), answer(saying("330 m.")), answer(saying("See 【0†L0】."))]
    first = respond(client, tools=[SEARCH])
    told = respond(client, previous_response_id=first["id"])
    assert told["output"][0]["content"][0]["annotations"][0]["url"] == ADDRESS


def test_input_items_when_listed_then_results_are_told_where_they_are_asked_for(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(browsing("search", query="tower"))]
    first = respond(client, tools=[SEARCH])
    told = respond(client, previous_response_id=first["id"])
    path = f"{RESPONSES}/{told['id']}/input_items"
    [searched] = [one for one in client.get(path).json()["data"] if one["type"] == "web_search_call"]
    assert searched == first["output"][1]
    [searched] = [
        one for one in client.get(path, params={"include": ALL}).json()["data"] if one["type"] == "web_search_call"
    ]
    assert searched["results"].startswith("[0] tower")


# --- choosing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "asked", "builtins", "functions"),
    [
        ({"type": "web_search_preview"}, ToolChoiceMode.REQUIRED, (BROWSER,), 0),
        ({"type": "code_interpreter"}, ToolChoiceMode.REQUIRED, (PYTHON,), 0),
        ("required", ToolChoiceMode.REQUIRED, (BROWSER, PYTHON), 1),
        ("none", ToolChoiceMode.NONE, (BROWSER, PYTHON), 1),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "code_interpreter"}]},
            ToolChoiceMode.AUTO,
            (PYTHON,),
            0,
        ),
    ],
)
def test_tool_choice_when_it_names_one_of_openais_then_the_first_turn_is_told_of_that(
    client: httpx.Client,
    server: FakeModelServer,
    choice: object,
    asked: ToolChoiceMode,
    builtins: tuple[BuiltinTool, ...],
    functions: int,
) -> None:
    told = respond(client, tools=[SEARCH, CODE, WEATHER], tool_choice=choice)
    [chat] = server.chats
    assert (chat.tool_choice, chat.builtin_tools, len(chat.tools)) == (ToolChoice(asked), builtins, functions)
    assert told["tool_choice"] == choice


def test_tool_choice_when_the_demanded_call_was_made_then_all_is_offered(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(coding("1"))]
    respond(client, tools=[SEARCH, CODE, WEATHER], tool_choice={"type": "code_interpreter"})
    assert server.chats[1].builtin_tools == (BROWSER, PYTHON)
    assert server.chats[1].tool_choice == ToolChoice()


def test_max_tool_calls_when_there_were_enough_then_the_model_is_told_and_answers_without(
    client: httpx.Client, server: FakeModelServer, seen: Browsed
) -> None:
    server.scripts = [answer(coding("1")), answer(coding("2"))]
    told = respond(client, tools=[CODE], max_tool_calls=1, include=ALL)
    ran, refused = of_kind(told, "code_interpreter_call")
    assert (ran["status"], refused["status"], seen.calls) == ("completed", "failed", [("python", "1")])
    assert "no more than 1 are made" in refused["outputs"][0]["logs"]
    assert server.chats[2].builtin_tools == ()
    assert told["output"][-1]["type"] == "message"


# --- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turn", "kind", "words"),
    [
        (coding("fail"), "code_interpreter_call", "The tool failed: "),
        (browsing("search", topn=1), "web_search_call", "The tool failed: "),
        (browsing("open", id=99), "web_search_call", "Error opening link: "),
    ],
)
def test_call_when_it_fails_then_the_model_is_told_and_answers(
    client: httpx.Client, server: FakeModelServer, turn: str, kind: str, words: str
) -> None:
    server.scripts = [answer(turn)]
    told = respond(client, tools=[CODE, SEARCH])
    [call] = of_kind(told, kind)
    assert call["status"] == ("completed" if words.startswith("Error") else "failed")
    assert (server.chats[1].messages[-1].content or "").startswith(words)
    assert told["status"] == "completed"


def test_client_when_it_leaves_then_the_call_is_cancelled_and_kept_as_interrupted(
    client: httpx.Client, server: FakeModelServer, seen: Browsed
) -> None:
    server.scripts = [answer(coding("wait"))]
    body = {"model": MODEL, "input": "Hi", "tools": [CODE], "stream": True}
    response_id = ""
    with client.stream("POST", RESPONSES, json=body) as response:
        for line in response.iter_lines():
            if not response_id and line.startswith("data: "):
                response_id = json.loads(line.removeprefix("data: "))["response"]["id"]
            if line == "event: response.code_interpreter_call.interpreting":
                wait_until(lambda: bool(seen.calls))
                break
    wait_until(lambda: seen.cancelled == ["wait"])
    settled(client, response_id)
    kept = client.get(f"{RESPONSES}/{response_id}", params={"include": ALL}).json()
    [call] = of_kind(kept, "code_interpreter_call")
    assert (kept["status"], call["status"]) == ("cancelled", "failed")
    assert call["outputs"][0]["logs"].startswith("The call was interrupted")


def test_answer_when_it_is_cut_within_a_call_then_nothing_is_run(
    client: httpx.Client, server: FakeModelServer, seen: Browsed
) -> None:
    cut = browsing("search", query="tower").removesuffix("<|call|>")
    server.scripts = [answer(cut, reason=FinishReason.LENGTH)]
    told = respond(client, tools=[SEARCH])
    assert (told["status"], kinds(told["output"]), seen.calls) == ("incomplete", ["reasoning"], [])
    server.scripts = [answer(coding("1").removesuffix("<|call|>"), reason=FinishReason.LENGTH)]
    told = respond(client, tools=[CODE])
    assert told["output"][-1]["status"] == "incomplete"
    assert seen.calls == []


def test_answer_when_no_tokens_are_left_behind_a_call_then_it_is_not_run(
    client: httpx.Client, server: FakeModelServer, seen: Browsed
) -> None:
    turn = browsing("search", query="tower")
    server.scripts = [answer(turn)]
    told = respond(client, tools=[SEARCH], max_output_tokens=len(token_ids(turn)))
    assert (told["output"][-1]["type"], told["output"][-1]["status"]) == ("web_search_call", "incomplete")
    assert seen.calls == []


def test_background_when_the_model_searches_then_it_is_run(client: httpx.Client, server: FakeModelServer) -> None:
    server.scripts = [answer(browsing("search", query="tower"))]
    done = settled(client, respond(client, tools=[SEARCH], background=True)["id"])
    assert (done["status"], done["output"][1]["status"]) == ("completed", "completed")


def test_background_when_its_stream_is_taken_up_later_then_its_end_tells_what_is_asked_for(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(coding("1"))]
    live = stream(client, tools=[CODE], background=True, include=ALL)
    [call] = of_kind(live[-1]["response"], "code_interpreter_call")
    assert call["outputs"] == [{"type": "logs", "logs": "ran 1\n"}]
    path = f"{RESPONSES}/{live[-1]['response']['id']}"
    for include, outputs in (([], None), (ALL, call["outputs"])):
        again = events_of(client.get(path, params={"stream": True, "include": include}))
        assert of_kind(again[-1]["response"], "code_interpreter_call")[0]["outputs"] == outputs
        assert again[:-1] == live[:-1]


# --- options --------------------------------------------------------------------------------------------------------


def test_user_location_when_given_then_the_model_is_told(client: httpx.Client, server: FakeModelServer) -> None:
    place = {"type": "approximate", "city": "Oslo", "country": "NO"}
    search = {"type": "web_search", "user_location": place, "search_context_size": "high"}
    assert respond(client, tools=[search])["tools"] == [search]
    note = ChatMessage(Role.DEVELOPER, "The user's approximate location: Oslo, NO.")
    assert server.chats[0].messages[1:] == (note,)
    respond(client, tools=[search], tool_choice="none")
    assert note not in server.chats[1].messages


def test_web_search_when_it_is_to_stay_off_the_web_then_it_is_not_offered(
    client: httpx.Client, server: FakeModelServer
) -> None:
    assert respond(client, tools=[{"type": "web_search", "external_web_access": False}])["tools"] == []
    assert server.chats[0].builtin_tools == ()


@pytest.mark.parametrize(
    ("tool", "param", "code"),
    [
        ({**SEARCH, "filters": {"allowed_domains": ["a.b"]}}, "filters.allowed_domains", "unsupported_parameter"),
        ({**SEARCH, "search_context_size": "huge"}, "search_context_size", "invalid_value"),
        ({**SEARCH, "search_content_types": ["text", "image"]}, "search_content_types", "unsupported_parameter"),
        ({**SEARCH, "max_uses": 3}, "max_uses", "unknown_parameter"),
        ({**CODE, "container": "cntr_1"}, "container", "unsupported_parameter"),
        ({**CODE, "container": {"type": "auto", "file_ids": ["f"]}}, "container.file_ids", "unsupported_parameter"),
        (
            {**CODE, "container": {"type": "auto", "memory_limit": "4g"}},
            "container.memory_limit",
            "unsupported_parameter",
        ),
    ],
)
def test_option_when_it_is_not_honoured_then_it_is_refused_by_name(
    client: httpx.Client, server: FakeModelServer, tool: dict[str, Any], param: str, code: str
) -> None:
    error = refusal(client, tools=[WEATHER, tool])
    assert (error["param"], error["code"]) == (f"tools[1].{param}", code)


def test_tool_when_it_is_named_twice_then_the_second_is_refused(client: httpx.Client, server: FakeModelServer) -> None:
    assert refusal(client, tools=[SEARCH, {"type": "web_search_preview"}])["param"] == "tools[1].type"


def test_tokens_when_counted_then_the_builtin_tools_are_part_of_the_prompt(
    client: httpx.Client, server: FakeModelServer
) -> None:
    counted = client.post(f"{RESPONSES}/input_tokens", json={"model": MODEL, "input": "Hi", "tools": [SEARCH]})
    assert counted.json()["object"] == "response.input_tokens"
    assert server.chats[0].builtin_tools == (BROWSER,)


# --- the official client --------------------------------------------------------------------------------------------


def test_stream_when_openais_client_reads_it_then_it_gathers_the_same_response(
    url_and_server: tuple[str, FakeModelServer], server: FakeModelServer
) -> None:
    server.scripts = [
        *(answer(browsing("open", id=TOWER)), answer(coding("330 / 0.3048")), answer(saying("1083 ft 【0†L0】"))),
    ]
    with (
        openai.OpenAI(base_url=f"{url_and_server[0]}/v1", api_key="none") as official,
        official.responses.stream(
            model=MODEL,
            input="How tall?",
            tools=[{"type": "web_search"}, {"type": "code_interpreter", "container": {"type": "auto"}}],
            include=["code_interpreter_call.outputs"],
        ) as events,
    ):
        told = [event.type for event in events]
        response = events.get_final_response()
    assert "response.web_search_call.searching" in told
    assert "response.output_text.annotation.added" in told
    [search] = [item for item in response.output if item.type == "web_search_call"]
    [code] = [item for item in response.output if item.type == "code_interpreter_call"]
    assert (search.status, code.code, code.status) == ("completed", "330 / 0.3048", "completed")
    assert response.output_text == "1083 ft 【0†L0】"


# --- what the operator says -----------------------------------------------------------------------------------------


def test_tools_when_nobody_runs_them_then_the_search_is_left_out_and_code_is_refused(tmp_path: Path) -> None:
    server = FakeModelServer()
    with serving(tmp_path / "a.sqlite", server) as url, httpx.Client(base_url=url) as client:
        assert respond(client, tools=[{**SEARCH, "filters": {"allowed_domains": ["a.b"]}}])["tools"] == []
        error = refusal(client, tools=[CODE])
        assert error["param"] == "tools[0].type"
        assert "adapter.hosted_tools" in error["message"]
        assert "adapter.hosted_tools" in refusal(client, tools=[SEARCH], tool_choice=SEARCH)["message"]


def test_server_when_it_lacks_a_tool_or_is_down_then_the_request_fails_in_openais_words(
    tmp_path: Path, seen: Browsed
) -> None:
    with hosted_servers(seen) as mcp_servers:
        settings: dict[str, Any] = {
            "mcp_servers": {**mcp_servers, "down": "http://127.0.0.1:9/mcp"},
            "hosted_tools": {"web_search": "nothing", "code_interpreter": "down"},
        }
        with serving(tmp_path / "a.sqlite", FakeModelServer(), **settings) as url, httpx.Client(base_url=url) as client:
            assert "'nothing'. It has no tool 'search'" in refusal(client, 424, tools=[SEARCH])["message"]
            assert "'down'. It cannot be reached" in refusal(client, 424, tools=[CODE])["message"]

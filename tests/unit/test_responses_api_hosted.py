"""POST /v1/responses with OpenAI's own tools: a scripted model, and real MCP servers over sockets."""

from __future__ import annotations

import httpx
import pytest

from gptoss_backend.contract import ChatMessage, Role, ToolCall
from support.fake_model_server import FakeModelServer, answer
from support.hosted_servers import ADDRESS, ALL, BROWSER, CODE, PYTHON, SEARCH, TOWER, Browsed, browsing, coding, saying
from support.mcp_server import kinds
from support.responses_api import MODEL, RESPONSES, WEATHER, of_kind, respond, settled, stream
from support.tool_fixtures import hosted_fixtures

url_and_server, seen = hosted_fixtures()


# --- searching --------------------------------------------------------------------------------------------------------


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


# --- code -------------------------------------------------------------------------------------------------------------


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


# --- both -------------------------------------------------------------------------------------------------------------


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


def test_background_when_the_model_searches_then_it_is_run(client: httpx.Client, server: FakeModelServer) -> None:
    server.scripts = [answer(browsing("search", query="tower"))]
    done = settled(client, respond(client, tools=[SEARCH], background=True)["id"])
    assert (done["status"], done["output"][1]["status"]) == ("completed", "completed")


def test_tokens_when_counted_then_the_builtin_tools_are_part_of_the_prompt(
    client: httpx.Client, server: FakeModelServer
) -> None:
    counted = client.post(f"{RESPONSES}/input_tokens", json={"model": MODEL, "input": "Hi", "tools": [SEARCH]})
    assert counted.json()["object"] == "response.input_tokens"
    assert server.chats[0].builtin_tools == (BROWSER,)

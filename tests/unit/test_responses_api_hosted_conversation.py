"""POST /v1/responses with OpenAI's own tools, and what comes after their calls."""

from __future__ import annotations

import httpx
import pytest

from gptoss_backend.contract import Role
from support.fake_model_server import FakeModelServer, answer
from support.hosted_servers import ADDRESS, ALL, CODE, SEARCH, TOWER, browsing, coding, saying
from support.responses_api import CALL, RESPONSES, WEATHER, respond
from support.tool_fixtures import hosted_fixtures

url_and_server, seen = hosted_fixtures()


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

"""POST /v1/responses with OpenAI's own tools, streamed."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai

from support.fake_model_server import FakeModelServer, answer
from support.hosted_servers import ALL, CODE, SEARCH, TOWER, Browsed, browsing, coding, saying
from support.live_app import wait_until
from support.responses_api import MODEL, RESPONSES, events_of, of_kind, settled, stream
from support.tool_fixtures import hosted_fixtures

url_and_server, seen = hosted_fixtures()


def names(events: list[dict[str, Any]], output_index: int) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events if event.get("output_index") == output_index]


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

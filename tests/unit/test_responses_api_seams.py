"""Where custom tools, OpenAI's own, those of MCP servers and conversations meet: real MCP servers, a scripted model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from openai.types.conversations import ConversationItem
from pydantic import TypeAdapter

from gptoss_adapter.errors import StructureFailedError
from gptoss_adapter.inference import PromptIds
from gptoss_adapter.raw_prompts import prompt_ids
from gptoss_backend.contract import ChatRequest
from gptoss_backend.harmony.prompt import render_prompt
from support.conversations_api import CONVERSATIONS, created, items
from support.fake_model_server import STARTED, FakeModelServer, answer
from support.hosted_servers import CODE, SEARCH, Browsed, browsing, coding, hosted_servers, saying
from support.mcp_server import ASKED, DOCS, Seen, calling, kinds, mcp_server
from support.responses_api import MODEL, RESPONSES, events_of, refusal, respond, serving, settled, stream

ALL = ["web_search_call.results", "web_search_call.action.sources", "code_interpreter_call.outputs"]
REGEX = {"type": "grammar", "syntax": "regex", "definition": "[a-z]+"}
PATCH = {"type": "custom", "name": "patch", "format": REGEX}
PYTHON = {"type": "custom", "name": "python"}
BROWSER = {"type": "namespace", "name": "browser", "tools": [{"type": "custom", "name": "search"}]}
FUNCTION = {"type": "function", "name": "browser.search", "parameters": {"type": "object"}}
TOOLS: list[dict[str, Any]] = [SEARCH, CODE, PATCH, PYTHON, DOCS, BROWSER, FUNCTION]
TO_PATCH = "<|channel|>commentary to=functions.patch code<|message|>abc<|call|>"
SERVERS_TURNS = [browsing("search", query="tower"), coding("1 + 1"), calling("search"), calling("fail", {})]

_ITEM: TypeAdapter[Any] = TypeAdapter(ConversationItem)


class RenderingServer(FakeModelServer):
    """One that renders prompts as preprocess does."""

    async def preprocess(self, chat: ChatRequest, request_id: str) -> PromptIds:
        await super().preprocess(chat, request_id)
        return prompt_ids(render_prompt(chat))


@pytest.fixture(scope="module")
def seen() -> Seen:
    return Seen()


@pytest.fixture(scope="module")
def url_and_server(tmp_path_factory: pytest.TempPathFactory, seen: Seen) -> Iterator[tuple[str, FakeModelServer]]:
    server = RenderingServer()
    with ExitStack() as running:
        urls = running.enter_context(hosted_servers(Browsed()))
        urls["docs"] = running.enter_context(mcp_server(seen))
        hosted = {"web_search": "browser", "code_interpreter": "python"}
        path = tmp_path_factory.mktemp("store") / "responses.sqlite"
        yield running.enter_context(serving(path, server, mcp_servers=urls, hosted_tools=hosted)), server


@pytest.fixture
def conversation(client: httpx.Client, seen: Seen) -> str:
    seen.forget()
    return created(client)


def calling_custom(name: str, text: str) -> str:
    quoted = json.dumps({"input": text}, separators=(",", ":"))
    return f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{quoted}<|call|>"


def output_of(told: dict[str, Any]) -> dict[str, Any]:
    """Return an output for the call that a response ends with."""
    call = told["output"][-1]
    return {"type": f"{call['type']}_output", "call_id": call["call_id"], "output": "done"}


# --- all of them at once --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"background": True}, {"truncation": "auto"}])
def test_turn_when_tools_of_all_kinds_are_called_then_the_conversation_holds_them_and_goes_on_with_the_same_tokens(
    client: httpx.Client, server: FakeModelServer, conversation: str, fields: dict[str, Any]
) -> None:
    server.scripts = [answer(turn) for turn in (*SERVERS_TURNS, TO_PATCH)]
    asked = {"conversation": conversation, "tools": TOOLS, **fields}
    told = stream(client, **asked)[-1]["response"] if fields.get("stream") else respond(client, **asked)
    if fields.get("background"):
        told = settled(client, told["id"])
    calls = [item["type"] for item in told["output"] if item["type"].endswith("_call")]
    assert calls == ["web_search_call", "code_interpreter_call", "mcp_call", "mcp_call", "custom_tool_call"]
    for include in ([], ALL):
        for item in items(client, conversation, include=include):
            _ITEM.validate_python(item, strict=True)

    server.scripts = [answer(calling_custom("python", 'print("é")\n')), answer(calling_custom("browser__search", "x"))]
    following = {"conversation": conversation, "tools": TOOLS}
    counted = client.post(f"{RESPONSES}/input_tokens", json={"input": [output_of(told)], **following}).json()
    second = respond(client, [output_of(told)], **following)
    assert counted["input_tokens"] == len(server.prompts[-1])
    third = respond(client, [output_of(second)], **following)
    assert [(one["output"][-1]["name"], one["output"][-1].get("namespace")) for one in (second, third)] == [
        ("python", None),
        ("search", "browser"),
    ]
    for before, after in zip(server.prompts, server.prompts[1:], strict=False):
        assert after[: len(before)] == before


def test_stream_when_tools_of_all_kinds_are_called_then_it_can_be_taken_up_at_any_event(
    client: httpx.Client, server: FakeModelServer, conversation: str
) -> None:
    server.scripts = [answer(turn) for turn in (*SERVERS_TURNS, TO_PATCH)]
    events = stream(client, conversation=conversation, tools=TOOLS, background=True)
    path = f"{RESPONSES}/{events[0]['response']['id']}"
    for number in range(0, len(events) - 1, 9):
        later = events_of(client.get(path, params={"stream": True, "starting_after": number}))
        assert later == events[number + 1 :]


# --- names that meet ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [[], [SEARCH]])
def test_call_when_a_function_that_may_not_be_called_has_the_custom_tools_name_then_it_is_the_custom_tools(
    client: httpx.Client, server: FakeModelServer, others: list[dict[str, Any]]
) -> None:
    tools = [PYTHON, {"type": "function", "name": "python"}, *others]
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "python"}]}
    server.scripts = [answer(calling_custom("python", "1"))]
    [call] = respond(client, tools=tools, tool_choice=allowed)["output"]
    assert (call["type"], call["input"]) == ("custom_tool_call", "1")


def test_call_when_a_servers_tool_that_may_not_be_called_has_the_custom_tools_name_then_the_client_is_to_run_it(
    client: httpx.Client, server: FakeModelServer, conversation: str, seen: Seen
) -> None:
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "docs__search"}]}
    server.scripts = [answer(calling_custom("docs__search", "secret"))]
    told = respond(client, tools=[{"type": "custom", "name": "docs__search"}, DOCS], tool_choice=allowed)
    assert kinds(told["output"]) == ["mcp_list_tools", "custom_tool_call"]
    assert seen.calls == []


@pytest.mark.parametrize("choice", [{"type": "mcp", "server_label": "docs"}, {"type": "web_search"}])
def test_names_when_two_would_meet_in_the_turn_after_a_forced_one_then_400_before_anything_is_run(
    client: httpx.Client, server: FakeModelServer, conversation: str, seen: Seen, choice: dict[str, Any]
) -> None:
    tools = [SEARCH, {"type": "function", "name": "docs__search"}, DOCS]
    error = refusal(client, tools=tools, tool_choice=choice)
    assert (error["param"], seen.calls, server.streams) == ("tools[2].name", [], [])


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [[], [SEARCH]])
def test_answer_when_its_grammar_is_outgrown_then_the_error_names_the_tools_place_in_the_request(
    client: httpx.Client, server: FakeModelServer, others: list[dict[str, Any]]
) -> None:
    param = "tools[0].custom.format.grammar.definition"
    server.scripts = [[STARTED, StructureFailedError(f"{param}: its grammar outgrew the limits.", param=param)]]
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "patch"}]}
    error = refusal(client, tools=[FUNCTION, PATCH, *others], tool_choice=allowed)
    assert (error["param"], error["code"]) == ("tools[1].format.definition", "structure_failed")


def test_conversation_when_it_holds_an_approval_of_a_server_that_is_not_offered_now_then_the_call_waits(
    client: httpx.Client, server: FakeModelServer, conversation: str, seen: Seen
) -> None:
    server.scripts = [answer(calling("search")), answer(saying("Well.")), answer(saying("Found."))]
    asked = respond(client, conversation=conversation, tools=[ASKED, SEARCH])["output"][-1]
    approval = {"type": "mcp_approval_response", "approval_request_id": asked["id"], "approve": True}
    assert client.post(f"{CONVERSATIONS}/{conversation}/items", json={"items": [approval]}).status_code == 200
    told = respond(client, conversation=conversation, tools=[SEARCH])
    assert (kinds(told["output"]), seen.calls) == (["message"], [])
    told = respond(client, conversation=conversation, tools=[ASKED, SEARCH])
    assert (kinds(told["output"]), len(seen.calls)) == (["mcp_call", "message"], 1)


def test_choice_when_it_allows_more_tools_than_any_request_has_then_400(client: httpx.Client) -> None:
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}] * 1025}
    body = {"model": MODEL, "input": "Hi", "tools": [SEARCH], "tool_choice": choice}
    error = client.post(RESPONSES, json=body).json()["error"]
    assert error["param"] == "tool_choice.tools"

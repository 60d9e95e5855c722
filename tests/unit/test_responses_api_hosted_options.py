"""POST /v1/responses with OpenAI's own tools: choices and options that are honoured."""

from __future__ import annotations

import httpx
import pytest

from gptoss_backend.contract import BuiltinTool, ToolChoice, ToolChoiceMode
from support.fake_model_server import FakeModelServer, answer
from support.hosted_servers import ALL, BROWSER, CODE, PYTHON, SEARCH, Browsed, coding
from support.responses_api import WEATHER, of_kind, respond
from support.tool_fixtures import hosted_fixtures

url_and_server, seen = hosted_fixtures()


# --- choosing ---------------------------------------------------------------------------------------------------------


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


# --- options ----------------------------------------------------------------------------------------------------------


def test_user_location_when_given_then_the_model_is_told(client: httpx.Client, server: FakeModelServer) -> None:
    place = {"type": "approximate", "city": "Oslo", "country": "NO"}
    search = {"type": "web_search", "user_location": place, "search_context_size": "high"}
    assert respond(client, tools=[search])["tools"] == [search]
    assert server.chats[0].notes == ("The user's approximate location: Oslo, NO.",)
    respond(client, tools=[search], tool_choice="none")
    assert server.chats[1].notes == ()


def test_web_search_when_it_is_to_stay_off_the_web_then_it_is_not_offered(
    client: httpx.Client, server: FakeModelServer
) -> None:
    assert respond(client, tools=[{"type": "web_search", "external_web_access": False}])["tools"] == []
    assert server.chats[0].builtin_tools == ()

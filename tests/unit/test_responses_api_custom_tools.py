"""Custom tools in /v1/responses: offered and chosen, called and streamed, sent back and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from agents import Agent, OpenAIResponsesModel, Runner
from agents import CustomTool as AgentsCustomTool
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, custom_tool
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import ResponseCustomToolCall

from gptoss_adapter.errors import refusal_of
from gptoss_backend.contract import (
    CallSyntax,
    ChatMessage,
    CustomTool,
    FinishReason,
    FunctionTool,
    Role,
    TextForm,
    TextFormKind,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
)
from support.fake_model_server import FakeModelServer, answer
from support.responses_api import MODEL, RESPONSES, WEATHER, keeping_adapter, refusal, respond, stream

CODE = {"type": "custom", "name": "run_code", "description": "Run code.", "format": {"type": "text"}}
LARK = {"type": "grammar", "syntax": "lark", "definition": 'start: "a"+'}
LETTERS = {"type": "custom", "name": "letters", "description": None, "format": LARK}
REGEX = {"type": "grammar", "syntax": "regex", "definition": "[0-9]+"}
DESK = {
    "type": "namespace",
    "name": "desk",
    "description": "A desk.",
    "tools": [{"type": "custom", "name": "number", "description": "Count.", "format": REGEX}],
}
TOOLS = [WEATHER, CODE, LETTERS, DESK]

PRINT = 'print("é")\n# \\'
CALL_CODE = (
    '<|channel|>commentary to=functions.run_code <|constrain|>json<|message|>{"input":"print(\\"é\\")\\n# \\\\"}'
)
CALL_LETTERS = "<|channel|>commentary to=functions.letters code<|message|>aaa"
CALL_NUMBER = "<|channel|>commentary to=functions.desk__number code<|message|>12"
THOUGHT = "<|channel|>analysis<|message|>Run it.<|end|><|start|>assistant"
CALLS = f"{THOUGHT}{CALL_CODE}<|end|><|start|>assistant{CALL_NUMBER}<|end|><|start|>assistant{CALL_LETTERS}<|call|>"
DONE = answer("<|channel|>final<|message|>Done.<|return|>")


url_and_server = keeping_adapter(max_schema_bytes=2048)


@pytest.fixture
def openai(url_and_server: tuple[str, FakeModelServer], server: FakeModelServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url_and_server[0]}/v1", api_key="none", max_retries=0) as client:
        yield client


# --- what the model is told -----------------------------------------------------------------------------------------


def test_tools_when_some_are_custom_then_the_model_server_is_told_and_the_response_repeats_them(
    client: httpx.Client, server: FakeModelServer
) -> None:
    told = respond(client, tools=[*TOOLS, {"type": "custom", "name": "plain"}])
    lark = TextForm(TextFormKind.GRAMMAR, ('start: "a"+',), "tools[2].custom.format.grammar.definition")
    regex = TextForm(TextFormKind.REGEX, ("[0-9]+",), "tools[3].custom.format.grammar.definition")
    assert server.chats[0].tools[1:] == (
        CustomTool("run_code", "Run code."),
        CustomTool("letters", "", lark),
        CustomTool("desk__number", "A desk.\n\nCount.", regex),
        CustomTool("plain"),
    )
    assert isinstance(server.chats[0].tools[0], FunctionTool)
    plain = {"type": "custom", "name": "plain", "description": None, "format": {"type": "text"}}
    assert told["tools"] == [*TOOLS, plain]


@pytest.mark.parametrize(
    ("choice", "told", "names"),
    [
        ({"type": "custom", "name": "letters"}, ToolChoice(ToolChoiceMode.REQUIRED, "letters"), 4),
        ({"type": "custom", "name": "desk__number"}, ToolChoice(ToolChoiceMode.REQUIRED, "desk__number"), 4),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "custom", "name": "letters"}, {"type": "function", "name": "weather"}],
            },
            ToolChoice(ToolChoiceMode.REQUIRED),
            2,
        ),
    ],
)
def test_choice_when_it_names_custom_tools_then_the_model_server_is_told_and_the_response_repeats_it(
    client: httpx.Client, server: FakeModelServer, choice: object, told: ToolChoice, names: int
) -> None:
    response = respond(client, tools=TOOLS, tool_choice=choice)
    assert server.chats[0].tool_choice == told
    assert len(server.chats[0].tools) == names
    assert response["tool_choice"] == choice


# --- what a client gets ---------------------------------------------------------------------------------------------


def test_response_when_it_calls_custom_tools_then_each_is_an_item_of_its_own(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(CALLS)]
    _, *calls = respond(client, tools=TOOLS)["output"]
    assert all(call.pop("id").startswith("ctc_") and call.pop("call_id").startswith("call_") for call in calls)
    said = {"type": "custom_tool_call", "status": "completed"}
    assert calls == [
        {**said, "name": "run_code", "input": PRINT},
        {**said, "name": "number", "namespace": "desk", "input": "12"},
        {**said, "name": "letters", "input": "aaa"},
    ]


def test_stream_when_it_calls_a_custom_tool_then_its_input_comes_as_it_is_written(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(f"{CALL_CODE}<|call|>")]
    events = stream(client, tools=TOOLS)[2:-1]
    added, *deltas, done, item_done = events
    place = {"item_id": added["item"]["id"], "output_index": 0}
    assert added["type"] == "response.output_item.added"
    assert (added["item"]["input"], added["item"]["status"]) == ("", "in_progress")
    assert {event["type"] for event in deltas} == {"response.custom_tool_call_input.delta"}
    assert "".join(event["delta"] for event in deltas) == PRINT
    assert len(deltas) > 3
    done.pop("sequence_number")
    assert done == {"type": "response.custom_tool_call_input.done", **place, "input": PRINT}
    assert (item_done["type"], item_done["item"]["input"]) == ("response.output_item.done", PRINT)


@pytest.mark.parametrize(
    ("text", "given"), [(CALL_CODE.removesuffix('\\\\"}'), PRINT.removesuffix("\\")), (CALL_LETTERS, "aaa")]
)
def test_call_when_its_input_is_cut_then_it_is_incomplete_and_not_shown_to_the_model_again(
    client: httpx.Client, server: FakeModelServer, text: str, given: str
) -> None:
    server.scripts = [answer(text, reason=FinishReason.LENGTH)]
    response = respond(client, tools=TOOLS)
    [call] = response["output"]
    assert (response["status"], call["status"], call["input"]) == ("incomplete", "incomplete", given)
    respond(client, "Go on", previous_response_id=response["id"], tools=TOOLS)
    assert [message.role for message in server.chats[1].messages] == [Role.USER, Role.USER]


# --- what comes back ------------------------------------------------------------------------------------------------

HISTORY = (
    ToolCall("a", "run_code", PRINT, CallSyntax.QUOTED),
    ToolCall("b", "desk__number", "12", CallSyntax.PLAIN),
    ToolCall("c", "letters", "aaa", CallSyntax.PLAIN),
)


@pytest.mark.parametrize(
    "choice",
    [None, "none", {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "run_code"}]}],
)
def test_history_when_it_holds_custom_calls_then_each_is_told_as_the_model_wrote_it(
    client: httpx.Client, server: FakeModelServer, choice: object
) -> None:
    items: list[Any] = [
        {"role": "user", "content": "Hi"},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Run it."}]},
        {"type": "custom_tool_call", "call_id": "a", "name": "run_code", "input": PRINT},
        {"type": "custom_tool_call", "call_id": "b", "name": "number", "namespace": "desk", "input": "12"},
        {"type": "custom_tool_call", "call_id": "c", "name": "letters", "input": "aaa", "caller": {"type": "direct"}},
        {"type": "custom_tool_call_output", "call_id": "a", "output": "é"},
        {
            "type": "custom_tool_call_output",
            "call_id": "b",
            "output": [{"type": "input_text", "text": "one"}, {"type": "input_text", "text": "two"}],
        },
        {"type": "custom_tool_call_output", "call_id": "c", "output": ""},
    ]
    respond(client, items, tools=TOOLS, tool_choice=choice)
    _, called, *results = server.chats[0].messages
    assert called == ChatMessage(Role.ASSISTANT, None, "Run it.", HISTORY)
    assert [(one.tool_call_id, one.content) for one in results] == [("a", "é"), ("b", "one\ntwo"), ("c", "")]


def test_calls_when_their_conversation_is_kept_then_it_goes_on_and_lists_them(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(CALLS)]
    first = respond(client, tools=TOOLS)
    ids = [item["call_id"] for item in first["output"] if item["type"] == "custom_tool_call"]
    outputs = [{"type": "custom_tool_call_output", "call_id": one, "output": "ok"} for one in ids]
    second = respond(client, outputs, previous_response_id=first["id"], tools=TOOLS)
    told = [(call.name, call.arguments, call.syntax) for call in server.chats[1].messages[1].tool_calls]
    assert told == [(call.name, call.arguments, call.syntax) for call in HISTORY]
    listed = client.get(f"{RESPONSES}/{second['id']}/input_items?order=asc").json()["data"]
    kinds = ["message", "reasoning", *["custom_tool_call"] * 3, *["custom_tool_call_output"] * 3]
    assert [item["type"] for item in listed] == kinds
    assert all(item["id"].startswith("ctco_") and item["status"] == "completed" for item in listed[-3:])
    again = [{"type": "item_reference", "id": item["id"]} for item in listed]
    respond(client, again, tools=TOOLS, store=False)
    assert server.chats[2].messages == server.chats[1].messages


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom", "name": "no name"}]}, "tools[0].name"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].name"),
        ({"tools": [{**CODE, "parameters": {}}]}, "tools[0].parameters"),
        ({"tools": [{**CODE, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [{**CODE, "async": True}]}, "tools[0].async"),
        ({"tools": [{**CODE, "format": {"type": "grammar", "syntax": "lark"}}]}, "tools[0].format.definition"),
        ({"tools": [{**CODE, "format": {**LARK, "syntax": "gbnf"}}]}, "tools[0].format.syntax"),
        ({"tools": [{**CODE, "format": {**LARK, "definition": ""}}]}, "tools[0].format.definition"),
        ({"tools": [WEATHER, {**CODE, "format": {**LARK, "definition": "x" * 2049}}]}, "tools[1].format.definition"),
        (
            {"tools": [{**DESK, "tools": [{**CODE, "format": {**LARK, "definition": "x" * 2049}}]}]},
            "tools[0].tools[0].format.definition",
        ),
        ({"tools": [{**CODE, "name": "desk__number"}, DESK]}, "tools[1].tools[0].name"),
        ({"tools": TOOLS, "tool_choice": {"type": "custom", "name": "weather"}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "run_code"}}, "tool_choice"),
        ({"input": [{"type": "custom_tool_call", "call_id": "a", "name": "f", "input": "x"}]}, "input"),
        ({"input": [{"type": "custom_tool_call_output", "call_id": "a", "output": ""}]}, "input"),
        ({"input": [{"type": "custom_tool_call", "call_id": "a", "name": "f"}]}, "input[0].input"),
    ],
)
def test_request_when_a_custom_tool_is_at_fault_then_400_names_it(
    client: httpx.Client, server: FakeModelServer, fields: dict[str, Any], param: str
) -> None:
    assert refusal(client, **fields)["param"] == param
    assert server.streams == []


def test_output_when_it_answers_a_call_of_another_kind_then_it_is_refused(client: httpx.Client) -> None:
    call = {"type": "custom_tool_call", "call_id": "a", "name": "run_code", "input": "1"}
    error = refusal(client, input=[call, {"type": "function_call_output", "call_id": "a", "output": "1"}])
    assert error["message"] == "No tool call found for function call output with call_id a."


@pytest.mark.parametrize(
    ("told", "place"),
    [
        ("tools[0].custom.format.grammar.definition", "tools[2].format.definition"),
        ("tools[1].custom.format.grammar.definition", "tools[3].tools[0].format.definition"),
        ("tools[1].custom.name", "tools[3].tools[0].name"),
    ],
)
def test_refusal_when_a_grammar_is_at_fault_then_its_place_in_the_request_is_named(
    client: httpx.Client, server: FakeModelServer, told: str, place: str
) -> None:
    named = [{"type": "custom", "name": name} for name in ("letters", "desk__number")]
    server.preprocess_error = refusal_of(f"{told}: no")
    choice = {"type": "allowed_tools", "mode": "auto", "tools": named}
    error = refusal(client, tools=TOOLS, tool_choice=choice)
    assert (error["param"], error["message"]) == (place, f"{place}: no.")


# --- clients --------------------------------------------------------------------------------------------------------


def test_openai_client_when_it_streams_a_custom_call_then_it_reads_the_input_and_sends_it_back(
    openai: OpenAI, server: FakeModelServer
) -> None:
    server.scripts = [answer(CALLS), DONE]
    tools: list[Any] = TOOLS
    conversation: list[Any] = [{"role": "user", "content": "Hi"}]
    with openai.responses.stream(model=MODEL, input=conversation, tools=tools, store=False) as told:
        given = "".join(event.delta for event in told if event.type == "response.custom_tool_call_input.delta")
        output = told.get_final_response().output
    calls = [item for item in output if isinstance(item, ResponseCustomToolCall)]
    assert given == "".join(call.input for call in calls) == f"{PRINT}12aaa"
    conversation += output
    conversation += [{"type": "custom_tool_call_output", "call_id": call.call_id, "output": "ok"} for call in calls]
    again = openai.responses.create(model=MODEL, input=conversation, tools=tools, store=False)
    assert again.output_text == "Done."
    assert [call.arguments for call in server.chats[1].messages[1].tool_calls] == [PRINT, "12", "aaa"]


def test_agents_sdk_when_it_has_a_custom_tool_then_it_runs_it_and_goes_on(
    url_and_server: tuple[str, FakeModelServer], server: FakeModelServer
) -> None:
    server.scripts = [answer(f"{THOUGHT}{CALL_LETTERS}<|call|>"), DONE]
    given: list[str] = []

    async def run(context: Any, text: str) -> str:  # noqa: ANN401 (the SDK's context)
        given.append(text)
        return "three"

    async def ask() -> object:
        async with AsyncOpenAI(base_url=f"{url_and_server[0]}/v1", api_key="none", max_retries=0) as client:
            tool = AgentsCustomTool("letters", "Letters.", run, format=LARK)
            agent = Agent(name="a", model=OpenAIResponsesModel(MODEL, client), tools=[tool])
            return (await Runner.run(agent, "Hi")).final_output

    assert asyncio.run(ask()) == "Done."
    assert given == ["aaa"]
    _, called, result = server.chats[1].messages
    assert called.tool_calls[0].syntax is CallSyntax.PLAIN
    assert (called.tool_calls[0].arguments, result.content) == ("aaa", "three")


@pytest.mark.parametrize("streamed", [False, True])
def test_langchain_when_it_has_custom_tools_then_it_runs_them_and_goes_on(
    url_and_server: tuple[str, FakeModelServer], server: FakeModelServer, streamed: bool
) -> None:
    @custom_tool
    def run_code(code: str) -> str:
        """Run code."""
        return f"ran {len(code)}"

    server.scripts = [answer(f"{CALL_CODE}<|call|>"), DONE]
    url: Any = {"base_url": f"{url_and_server[0]}/v1", "api_key": "none"}
    model = ChatOpenAI(model=MODEL, use_responses_api=True, streaming=streamed, **url).bind_tools([run_code])
    messages: list[Any] = [HumanMessage("Hi")]
    messages.append(model.invoke(messages))
    messages += [run_code.invoke(call) for call in messages[-1].tool_calls]
    assert model.invoke(messages).text == "Done."
    _, called, result = server.chats[1].messages
    assert called.tool_calls[0].arguments == PRINT
    assert result.content == f"ran {len(PRINT)}"

"""Custom tools in /v1/chat/completions: what the model server is told, what clients get, what comes back."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageCustomToolCall

from gptoss_adapter.errors import StructureFailedError, refusal_of
from gptoss_backend.contract import (
    CallSyntax,
    CustomTool,
    FunctionTool,
    TextForm,
    TextFormKind,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
)
from gptoss_backend.settings_sources import load_settings
from support.fake_model_server import STARTED, FakeModelServer, answer
from support.live_app import chat_body, sse_documents

SETTINGS = load_settings(
    {"model": "demo", "server": {"triton_metrics_port": 9}, "adapter": {"max_schema_bytes": 2048}}, environ={}
)
CHAT = "/v1/chat/completions"
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CODE = {"type": "custom", "custom": {"name": "run_code", "description": "Run code.", "format": {"type": "text"}}}
LARK = {"type": "grammar", "grammar": {"syntax": "lark", "definition": 'start: "a"+'}}
LETTERS = {"type": "custom", "custom": {"name": "letters", "format": LARK}}
REGEX = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[0-9]+"}}
NUMBER = {"type": "custom", "custom": {"name": "number", "format": REGEX}}
TOOLS = [WEATHER, CODE, LETTERS, NUMBER]

PRINT = 'print("é")\n# \\'
TO_CODE = "<|channel|>commentary to=functions.run_code <|constrain|>json<|message|>"
CALL_CODE = f'{TO_CODE}{{"input":"print(\\"é\\")\\n# \\\\"}}'
CALL_LETTERS = "<|channel|>commentary to=functions.letters code<|message|>aaa"
CALL_WEATHER = '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"a":1}'
CALLS = f"{CALL_CODE}<|end|><|start|>assistant{CALL_WEATHER}<|end|><|start|>assistant{CALL_LETTERS}<|call|>"
NAMED = {"type": "custom", "custom": {"name": "letters"}}
WEATHER_CHOICE = {"type": "function", "function": {"name": "weather"}}


def ask(client: httpx.Client, **fields: object) -> dict[str, Any]:
    response = client.post(CHAT, json=chat_body(**fields))
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    ChatCompletion.model_validate(document, strict=True)
    return document


def refusal(client: httpx.Client, **fields: object) -> dict[str, Any]:
    response = client.post(CHAT, json=chat_body(**fields))
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


# --- what the model is told -----------------------------------------------------------------------------------------


def test_tools_when_some_are_custom_then_the_model_server_is_told_of_all_in_their_places(
    client: httpx.Client, server: FakeModelServer
) -> None:
    ask(client, tools=TOOLS)
    [chat], [sampling] = server.chats, server.samplings
    assert chat.tools == (
        FunctionTool("weather", "", {"type": "object"}),
        CustomTool("run_code", "Run code."),
        CustomTool("letters", "", TextForm(TextFormKind.GRAMMAR, ('start: "a"+',), definition_at(2))),
        CustomTool("number", "", TextForm(TextFormKind.REGEX, ("[0-9]+",), definition_at(3))),
    )
    assert sampling.structure is not None
    assert sampling.structure.tools == chat.tools


def definition_at(position: int) -> str:
    return f"tools[{position}].custom.format.grammar.definition"


@pytest.mark.parametrize(
    ("choice", "told", "names"),
    [
        (NAMED, ToolChoice(ToolChoiceMode.REQUIRED, "letters"), ["weather", "run_code", "letters", "number"]),
        ("required", ToolChoice(ToolChoiceMode.REQUIRED), ["weather", "run_code", "letters", "number"]),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [NAMED, {"type": "function", "function": {"name": "weather"}}],
                },
            },
            ToolChoice(ToolChoiceMode.REQUIRED),
            ["weather", "letters"],
        ),
    ],
)
def test_choice_when_it_names_custom_tools_then_the_model_server_is_told(
    client: httpx.Client, server: FakeModelServer, choice: object, told: ToolChoice, names: list[str]
) -> None:
    ask(client, tools=TOOLS, tool_choice=choice)
    assert server.chats[0].tool_choice == told
    assert [tool.name for tool in server.chats[0].tools] == names


def test_history_when_it_holds_custom_calls_then_each_is_told_as_the_model_wrote_it(
    client: httpx.Client, server: FakeModelServer
) -> None:
    calls = [
        {"id": "a", "type": "custom", "custom": {"name": "run_code", "input": PRINT}},
        {"id": "b", "type": "custom", "custom": {"name": "letters", "input": "aaa"}, "index": 1},
        {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
        {"id": "d", "type": "custom", "custom": {"name": "gone", "input": "x"}},
    ]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "ok"} for call in calls]
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": calls}, *results]
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [WEATHER_CHOICE]}}
    for choice in (None, "none", allowed):  # which tools may be called now says nothing of what was written
        ask(client, tools=TOOLS, messages=messages, tool_choice=choice)
        assert server.chats[-1].messages[1].tool_calls == (
            ToolCall("a", "run_code", PRINT, CallSyntax.QUOTED),
            ToolCall("b", "letters", "aaa", CallSyntax.PLAIN),
            ToolCall("c", "weather", "{}"),
            ToolCall("d", "gone", "x", CallSyntax.QUOTED),
        )


# --- what a client gets ---------------------------------------------------------------------------------------------


def test_answer_when_it_calls_custom_tools_then_each_call_has_its_input(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer(CALLS)
    [choice] = ask(client, tools=TOOLS)["choices"]
    assert choice["finish_reason"] == "tool_calls"
    calls = choice["message"]["tool_calls"]
    assert all(call.pop("id").startswith("call_") for call in calls)
    assert calls == [
        {"type": "custom", "custom": {"name": "run_code", "input": PRINT}},
        {"type": "function", "function": {"name": "weather", "arguments": '{"a":1}'}},
        {"type": "custom", "custom": {"name": "letters", "input": "aaa"}},
    ]


def test_stream_when_it_calls_custom_tools_then_their_inputs_come_as_they_are_written(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer(CALLS)
    chunks = sse_documents(client.post(CHAT, json=chat_body(tools=TOOLS, stream=True)))[:-1]
    parts = [part for chunk in chunks for part in chunk["choices"][0]["delta"].get("tool_calls", ())]
    begun = [part for part in parts if "id" in part]
    assert [(part["index"], part["type"]) for part in begun] == [(0, "custom"), (1, "function"), (2, "custom")]
    assert [part[part["type"]]["name"] for part in begun] == ["run_code", "weather", "letters"]
    going_on = [part for part in parts if "id" not in part and part["index"] != 1]
    assert all(part.keys() == {"index", "custom"} and part["custom"].keys() == {"input"} for part in going_on)
    inputs = ["".join(part["custom"]["input"] for part in parts if part["index"] == at) for at in (0, 2)]
    assert inputs == [PRINT, "aaa"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_stream_when_the_official_client_gathers_it_then_its_snapshot_has_the_calls(
    openai: OpenAI, server: FakeModelServer
) -> None:
    server.script = answer(CALLS)
    tools: list[Any] = TOOLS
    messages: list[Any] = [{"role": "user", "content": "Hi"}]
    with openai.chat.completions.stream(model="gpt-oss-demo", messages=messages, tools=tools) as told:
        kinds = {event.type for event in told}
        message = told.current_completion_snapshot.choices[0].message  # `get_final_completion` knows functions only
    assert "tool_calls.function.arguments.done" in kinds
    calls = [call.model_dump(mode="json") for call in message.tool_calls or ()]
    assert [call.get("custom") for call in calls] == [
        {"name": "run_code", "input": PRINT},
        None,
        {"name": "letters", "input": "aaa"},
    ]


def test_call_when_the_official_client_sends_it_back_then_the_model_sees_it_again(
    openai: OpenAI, server: FakeModelServer
) -> None:
    server.script = answer(f"{CALL_CODE}<|call|>")
    tools: list[Any] = TOOLS
    messages: list[Any] = [{"role": "user", "content": "Hi"}]
    message = openai.chat.completions.create(model="gpt-oss-demo", messages=messages, tools=tools).choices[0].message
    [call] = message.tool_calls or ()
    assert isinstance(call, ChatCompletionMessageCustomToolCall)
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "é"}]
    openai.chat.completions.create(model="gpt-oss-demo", messages=messages, tools=tools)
    assert server.chats[1].messages[1].tool_calls == (ToolCall(call.id, "run_code", PRINT, CallSyntax.QUOTED),)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom"}]}, "tools[0].custom"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].custom.name"),
        ({"tools": [{"type": "custom", "custom": {"name": "f", "strict": True}}]}, "tools[0].custom.strict"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}, "name": "f"}]}, "tools[0].name"),
        ({"tools": [WEATHER, {"type": "web_search"}]}, "tools[1]"),
        ({"tools": [{**CODE, "custom": {"name": "f", "format": {"type": "json"}}}]}, "tools[0].custom.format.type"),
        (
            {"tools": [{**CODE, "custom": {"name": "f", "format": {"type": "grammar"}}}]},
            "tools[0].custom.format.grammar",
        ),
        (
            {
                "tools": [
                    {
                        **CODE,
                        "custom": {"name": "f", "format": {**LARK, "grammar": {"syntax": "gbnf", "definition": "x"}}},
                    }
                ]
            },
            "tools[0].custom.format.grammar.syntax",
        ),
        (
            {
                "tools": [
                    WEATHER,
                    {
                        **CODE,
                        "custom": {
                            "name": "f",
                            "format": {**REGEX, "grammar": {"syntax": "regex", "definition": "x" * 2049}},
                        },
                    },
                ]
            },
            definition_at(1),
        ),
        ({"tools": TOOLS, "tool_choice": {"type": "custom", "custom": {"name": "weather"}}}, "tool_choice.custom.name"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "number"}}},
            "tool_choice.function.name",
        ),
        (
            {
                "tools": TOOLS,
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "auto",
                        "tools": [WEATHER_CHOICE, {"type": "custom", "custom": {"name": "x"}}],
                    },
                },
            },
            "tool_choice.allowed_tools.tools[1].custom.name",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"id": "a", "type": "custom", "custom": {"name": "f"}}]}
                ]
            },
            "messages[0].tool_calls[0].custom.input",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "type": "mcp"}]}]},
            "messages[0].tool_calls[0]",
        ),
    ],
)
def test_custom_tool_when_it_is_malformed_or_not_there_then_the_refusal_names_the_field(
    client: httpx.Client, server: FakeModelServer, fields: dict[str, Any], param: str
) -> None:
    error = refusal(client, **fields)
    assert error["param"] == param
    assert server.chats == []


@pytest.mark.parametrize(
    ("told", "place"),
    [
        ("tools[0].function.parameters", "tools[1].function.parameters"),
        ("tools[1].custom.format.grammar.definition", "tools[3].custom.format.grammar.definition"),
        ("tools[1]", "tools[3]"),
    ],
)
def test_refusal_when_some_tools_are_allowed_then_it_names_the_place_in_the_request(
    client: httpx.Client, server: FakeModelServer, told: str, place: str
) -> None:
    tools = [CODE, WEATHER, LETTERS, NUMBER]
    named = [WEATHER_CHOICE, {"type": "custom", "custom": {"name": "number"}}]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": named}}
    body = chat_body(tools=tools, tool_choice=choice)
    for path, more in ((CHAT, {}), (CHAT, {"n": 2}), (CHAT, {"stream": True}), ("/tokenize", {})):
        server.preprocess_error = refusal_of(f"{told}: no")
        response = client.post(path, json={**body, **more})
        error = response.json()["error"]
        assert (response.status_code, error["param"], error["message"]) == (400, place, f"{place}: no.")


def test_answer_when_a_grammar_is_outgrown_amid_it_then_the_error_names_the_place_in_the_request(
    client: httpx.Client, server: FakeModelServer
) -> None:
    param = "tools[0].custom.format.grammar.definition"
    server.script = [STARTED, StructureFailedError(f"{param}: outgrown.", param=param)]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}
    error = refusal(client, tools=TOOLS, tool_choice=choice)
    assert error["param"] == "tools[2].custom.format.grammar.definition"

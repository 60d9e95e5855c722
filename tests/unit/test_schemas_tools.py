"""From the tools and the format of OpenAI's request to the contract's."""

from __future__ import annotations

import pytest

from gptoss_adapter.errors import InvalidRequestError
from gptoss_backend.contract import ResponseFormat, ToolChoice, ToolChoiceMode
from support.chat_schemas import CLOCK, WEATHER, chat

NAMED = {"type": "function", "function": {"name": "weather"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice()),
        ("none", ToolChoice(ToolChoiceMode.NONE)),
        ("required", ToolChoice(ToolChoiceMode.REQUIRED)),
        (NAMED, ToolChoice(ToolChoiceMode.REQUIRED, "weather")),
    ],
)
def test_tool_choice_when_said_then_the_contract_says_it(choice: object, expected: ToolChoice) -> None:
    mapped = chat(tools=[WEATHER, CLOCK], tool_choice=choice)
    assert mapped.tool_choice == expected
    assert [tool.name for tool in mapped.tools] == ["weather", "clock"]


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_tool_choice_when_it_allows_some_then_the_model_is_told_of_these(mode: str) -> None:
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [CLOCK]}}
    mapped = chat(tools=[WEATHER, CLOCK], tool_choice=allowed)
    assert mapped.tool_choice == ToolChoice(ToolChoiceMode(mode))
    assert [tool.name for tool in mapped.tools] == ["clock"]


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        (CLOCK, "tool_choice.function.name"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED, CLOCK]}},
            "tool_choice.allowed_tools.tools[1].function.name",
        ),
    ],
)
def test_tool_choice_when_it_names_no_tool_of_the_request_then_it_is_refused(choice: object, param: str) -> None:
    with pytest.raises(InvalidRequestError, match="clock") as refused:
        chat(tools=[WEATHER], tool_choice=choice)
    assert refused.value.param == param


def test_tool_choice_when_required_without_tools_then_it_is_refused() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        chat(tool_choice="required")
    assert refused.value.param == "tool_choice"


def test_tools_when_one_call_at_a_time_or_a_strict_one_is_asked_for_then_it_is_passed_on() -> None:
    strict = {"type": "function", "function": {"name": "f", "strict": True}}
    mapped = chat(tools=[strict, CLOCK], parallel_tool_calls=False)
    assert not mapped.parallel_tool_calls
    assert [tool.strict for tool in mapped.tools] == [True, False]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, ResponseFormat()),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, ResponseFormat(None, "x")),
        (
            {
                "type": "json_schema",
                "json_schema": {"name": "x", "description": "d", "schema": SCHEMA, "strict": False},
            },
            ResponseFormat(SCHEMA, "x", "d", strict=False),
        ),
    ],
)
def test_response_format_when_asked_for_then_the_contract_says_it(
    asked: object, expected: ResponseFormat | None
) -> None:
    assert chat(response_format=asked).response_format == expected

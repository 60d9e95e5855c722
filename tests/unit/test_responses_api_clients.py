"""What speaks to OpenAI speaks to us: the official client, the Agents SDK and langchain-openai.

A scripted model server stands in Triton's place, because a tool call needs a model that calls.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import APIError, AsyncOpenAI, BadRequestError, NotFoundError, OpenAI, pydantic_function_tool
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseReasoningItem
from pydantic import BaseModel

from gptoss_adapter.errors import ContextLengthExceededError, ServiceUnavailableError
from gptoss_adapter.schemas.carried_text import reasoning_of
from gptoss_backend.contract import ResponseFormat, Role
from support.fake_model_server import CHAT_PROMPT, HELLO, FakeModelServer, Pause, answer
from support.official_client import client_fixtures
from support.responses_api import CALL, MODEL, WEATHER

SNOW = answer("<|channel|>final<|message|>It snows in Oslo.<|return|>")


url_and_server, url, client = client_fixtures()


# --- the official client --------------------------------------------------------------------------------------------


def test_openai_client_when_it_creates_then_it_reads_the_answer(client: OpenAI) -> None:
    response = client.responses.create(model=MODEL, input="Hi", instructions="Be brief.")
    reasoning, message = response.output
    assert isinstance(reasoning, ResponseReasoningItem)
    assert isinstance(message, ResponseOutputMessage)
    assert reasoning.content is not None
    assert reasoning.content[0].text == "Easy."
    assert response.output_text == "Hello!"
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens == 6


def test_openai_client_when_it_streams_then_its_helper_accumulates_the_answer(client: OpenAI) -> None:
    with client.responses.stream(model=MODEL, input="Hi") as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(texts) == final.output_text == "Hello!"
    assert final.status == "completed"


def test_openai_client_when_it_streams_a_call_then_its_helper_accumulates_the_arguments(
    client: OpenAI, server: FakeModelServer
) -> None:
    server.scripts = [answer(CALL)]
    with client.responses.stream(model=MODEL, input="Weather?", tools=[WEATHER]) as stream:  # type: ignore[list-item]
        snapshots = [event.snapshot for event in stream if event.type == "response.function_call_arguments.delta"]
        final = stream.get_final_response()
    call = final.output[1]
    assert isinstance(call, ResponseFunctionToolCall)
    assert snapshots[-1] == call.arguments == '{"city":"Oslo"}'


class Fact(BaseModel):
    """An answer of a shape."""

    city: str
    degrees: int


def test_openai_client_when_it_parses_then_the_schema_is_asked_for_and_the_answer_is_an_object(
    client: OpenAI, server: FakeModelServer
) -> None:
    server.scripts = [answer('<|channel|>final<|message|>{"city":"Oslo","degrees":-3}<|return|>')]
    response = client.responses.parse(model=MODEL, input="Oslo?", text_format=Fact)
    assert response.output_parsed == Fact(city="Oslo", degrees=-3)
    asked = server.chats[0].response_format
    assert isinstance(asked, ResponseFormat)
    assert (asked.name, asked.strict) == ("Fact", True)
    assert asked.schema is not None
    assert asked.schema["required"] == ["city", "degrees"]


def test_openai_client_when_it_sends_the_output_back_then_it_is_taken(client: OpenAI, server: FakeModelServer) -> None:
    server.scripts = [answer(CALL), SNOW]
    conversation: list[Any] = [{"role": "user", "content": "Weather?"}]
    response = client.responses.create(model=MODEL, input=conversation, tools=[WEATHER], store=False)  # type: ignore[list-item]
    conversation += response.output
    call = response.output[1]
    assert isinstance(call, ResponseFunctionToolCall)
    conversation.append({"type": "function_call_output", "call_id": call.call_id, "output": "Snow"})
    again = client.responses.create(model=MODEL, input=conversation, tools=[WEATHER], store=False)  # type: ignore[list-item]
    assert again.output_text == "It snows in Oslo."
    _, called, result = server.chats[1].messages
    assert (called.reasoning, called.tool_calls[0].name, result.content) == ("Look it up.", "weather", "Snow")


@pytest.mark.parametrize("streamed", [False, True])
def test_openai_client_when_nothing_is_kept_and_content_is_dropped_then_the_reasoning_comes_back_encoded(
    client: OpenAI, server: FakeModelServer, streamed: bool
) -> None:
    server.scripts = [answer(CALL), SNOW]
    conversation: list[Any] = [{"role": "user", "content": "Weather?"}]
    asked: Any = {"model": MODEL, "tools": [WEATHER], "store": False, "include": ["reasoning.encrypted_content"]}
    if streamed:
        events = list(client.responses.create(input=conversation, stream=True, **asked))
        output = [event.item for event in events if event.type == "response.output_item.done"]
    else:
        output = client.responses.create(input=conversation, **asked).output
    # as Codex does: it never sends reasoning in the open
    conversation += [item.model_dump(exclude={"content", "id"}, exclude_none=True) for item in output]
    conversation.append({"type": "function_call_output", "call_id": output[1].call_id, "output": "Snow"})
    assert client.responses.create(input=conversation, **asked).output_text == "It snows in Oslo."
    assert server.chats[1].messages[1].reasoning == "Look it up."


def test_openai_client_when_it_parses_a_call_then_its_arguments_are_an_object(
    client: OpenAI, server: FakeModelServer
) -> None:
    class Weather(BaseModel):
        city: str

    server.scripts = [answer(CALL.replace("functions.weather", "functions.Weather"))]
    function = pydantic_function_tool(Weather)["function"]
    tools: Any = [{"type": "function", **function}]
    response = client.responses.parse(model=MODEL, input="Weather?", tools=tools)
    call: Any = response.output[1]
    assert call.parsed_arguments == {"city": "Oslo"}


def test_openai_client_when_it_counts_input_tokens_then_they_are_those_of_the_prompt(
    client: OpenAI, server: FakeModelServer
) -> None:
    first = client.responses.create(model=MODEL, input="Hi")
    counted = client.responses.input_tokens.count(
        model=MODEL, input="More", instructions="Be brief.", previous_response_id=first.id
    )
    assert counted.input_tokens == len(CHAT_PROMPT)
    assert [message.content for message in server.chats[1].messages] == ["Be brief.", "Hi", "Hello!", "More"]
    assert len(server.streams) == 1  # nothing was generated
    assert client.responses.input_tokens.count(input="Hi").input_tokens == len(CHAT_PROMPT)  # of the alias
    with pytest.raises(BadRequestError, match="personality"):
        client.responses.input_tokens.count(input="Hi", personality="friendly")


def test_openai_client_when_it_manages_kept_responses_then_every_method_works(client: OpenAI) -> None:
    first = client.responses.create(model=MODEL, input="Hi")
    second = client.responses.create(model=MODEL, input="More", previous_response_id=first.id)
    assert client.responses.retrieve(second.id) == second
    carried = client.responses.retrieve(second.id, include=["reasoning.encrypted_content"]).output[0]
    assert isinstance(carried, ResponseReasoningItem)
    assert reasoning_of(carried.encrypted_content or "") == "Easy."
    items = list(client.responses.input_items.list(second.id, limit=2, order="asc"))  # follows the pages
    assert [item.type for item in items] == ["message", "reasoning", "message", "message"]
    with pytest.raises(BadRequestError, match="synchronous"):
        client.responses.cancel(second.id)
    client.responses.delete(second.id)
    with pytest.raises(NotFoundError, match=second.id):
        client.responses.retrieve(second.id)


SLOW = [Pause(0.25), *HELLO[:5], Pause(0.25), *HELLO[5:]]


@pytest.mark.parametrize("background", [False, True])
def test_openai_client_when_a_stream_is_silent_then_it_passes_over_what_keeps_it_alive(
    client: OpenAI, server: FakeModelServer, background: bool
) -> None:
    server.scripts = [SLOW, SLOW]
    with client.responses.create(model=MODEL, input="Hi", stream=True, background=background) as events:
        kinds = [event.type for event in events]
    assert "keepalive" in kinds
    assert kinds[-1] == "response.completed"
    with client.responses.stream(model=MODEL, input="Hi", background=background) as stream:
        final = stream.get_final_response()
    assert final.output_text == "Hello!"
    if background:
        with client.responses.stream(response_id=final.id, starting_after=3) as stream:
            assert stream.get_final_response().output_text == "Hello!"


FAILING = {
    "at once": [ServiceUnavailableError("Gone.")],
    "after a silence": [Pause(0.2), ServiceUnavailableError("Gone.")],
    "amid the answer": [*HELLO[:5], ServiceUnavailableError("Gone.")],
}


@pytest.mark.parametrize("script", FAILING.values(), ids=FAILING)
@pytest.mark.parametrize("background", [False, True])
def test_openai_client_when_a_stream_fails_then_it_raises_and_says_why(
    client: OpenAI, server: FakeModelServer, script: list[Any], background: bool
) -> None:
    server.scripts = [script, script]
    with (
        pytest.raises(APIError, match="Gone") as raised,
        closing(client.responses.create(model=MODEL, input="Hi", stream=True, background=background)) as events,
    ):
        list(events)
    assert raised.value.code == "service_unavailable"
    with (
        pytest.raises(APIError, match="Gone"),
        client.responses.stream(model=MODEL, input="Hi", background=background) as stream,
    ):
        stream.until_done()


@pytest.mark.parametrize("script", [[], [Pause(0.2)]], ids=["at once", "after a silence"])
def test_openai_client_when_a_streamed_prompt_is_too_long_then_it_raises_with_the_code(
    client: OpenAI, server: FakeModelServer, script: list[Any]
) -> None:
    server.scripts = [[*script, ContextLengthExceededError("Too long.")]]
    with (
        pytest.raises(APIError, match="Too long") as raised,
        client.responses.stream(model=MODEL, input="Hi") as stream,
    ):
        stream.until_done()
    assert (raised.value.code, raised.value.param) == ("context_length_exceeded", "input")


# --- the OpenAI Agents SDK ------------------------------------------------------------------------------------------


@function_tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"Snow in {city}"


set_tracing_disabled(True)  # it would be sent to OpenAI


@asynccontextmanager
async def agent(url: str, api: str = "responses") -> AsyncIterator[Agent[None]]:
    model = OpenAIResponsesModel if api == "responses" else OpenAIChatCompletionsModel
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield Agent(
            name="Meteorologist",
            instructions="Tell the weather.",
            tools=[weather],
            model=model(model=MODEL, openai_client=client),
        )


def assert_the_tool_was_used(server: FakeModelServer) -> None:
    first, second = server.chats
    assert [one.name for one in first.tools] == ["weather"]
    assert [message.role for message in second.messages] == [Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.TOOL]
    *_, called, result = second.messages
    assert json.loads(called.tool_calls[0].arguments) == {"city": "Oslo"}
    assert result.content == "Snow in Oslo"


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_agents_sdk_when_it_has_a_function_then_the_model_calls_it_and_reads_the_result(
    url: str, server: FakeModelServer, api: str
) -> None:
    async def run() -> str:
        async with agent(url, api) as meteorologist:
            return str((await Runner.run(meteorologist, "Weather in Oslo?")).final_output)

    server.scripts = [answer(CALL), SNOW]
    assert asyncio.run(run()) == "It snows in Oslo."
    assert_the_tool_was_used(server)


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_agents_sdk_when_it_streams_then_the_model_calls_the_function_and_reads_the_result(
    url: str, server: FakeModelServer, api: str
) -> None:
    async def run() -> str:
        async with agent(url, api) as meteorologist:
            result = Runner.run_streamed(meteorologist, "Weather in Oslo?")
            async for _ in result.stream_events():
                pass
            return str(result.final_output)

    server.scripts = [[Pause(0.25), *answer(CALL)], SNOW]
    assert asyncio.run(run()) == "It snows in Oslo."
    assert_the_tool_was_used(server)


def test_agents_sdk_when_it_continues_by_id_then_the_reasoning_is_seen_between_the_calls(
    url: str, server: FakeModelServer
) -> None:
    async def run() -> None:
        async with agent(url) as meteorologist:
            await Runner.run(meteorologist, "Weather in Oslo?", auto_previous_response_id=True)

    server.scripts = [answer(CALL), SNOW]
    asyncio.run(run())
    assert_the_tool_was_used(server)
    assert server.chats[1].messages[2].reasoning == "Look it up."


def test_agents_sdk_when_a_session_keeps_the_items_then_they_are_taken_back(
    url: str, server: FakeModelServer, tmp_path: Path
) -> None:
    async def run() -> str:
        async with agent(url) as meteorologist:
            await Runner.run(meteorologist, "Weather in Oslo?", session=session)
            return str((await Runner.run(meteorologist, "Thanks", session=session)).final_output)

    server.scripts = [answer(CALL), SNOW, HELLO]
    with closing(SQLiteSession("one", tmp_path / "session.db")) as session:
        assert asyncio.run(run()) == "Hello!"
    assert [message.role for message in server.chats[2].messages[1:]] == [
        *(Role.USER, Role.ASSISTANT, Role.TOOL, Role.ASSISTANT, Role.USER)
    ]


# --- langchain ------------------------------------------------------------------------------------------------------


@tool
def forecast(city: str) -> str:
    """Tell the weather."""
    return f"Snow in {city}"


FORECAST = CALL.replace("weather", "forecast")


def langchain_model(url: str, *, responses: bool) -> ChatOpenAI:
    return ChatOpenAI(model=MODEL, base_url=url, api_key="none", max_retries=0, use_responses_api=responses)  # type: ignore[arg-type]


@pytest.mark.parametrize("responses", [True, False])
def test_langchain_when_it_binds_a_tool_then_the_call_and_its_result_make_the_round(
    url: str, server: FakeModelServer, responses: bool
) -> None:
    server.scripts = [answer(FORECAST), SNOW]
    model = langchain_model(url, responses=responses).bind_tools([forecast])
    called = model.invoke("Weather in Oslo?")
    assert isinstance(called, AIMessage)
    [call] = called.tool_calls
    assert (call["name"], call["args"]) == ("forecast", {"city": "Oslo"})
    result = ToolMessage(forecast.invoke(call["args"]), tool_call_id=call["id"])
    final = model.invoke([HumanMessage("Weather in Oslo?"), called, result])
    assert final.text == "It snows in Oslo."
    *_, asked = server.chats[1].messages
    assert (asked.role, asked.content) == (Role.TOOL, "Snow in Oslo")


@pytest.mark.parametrize("streamed", [False, True])
def test_langchain_when_nothing_is_kept_then_the_reasoning_is_seen_between_the_calls(
    url: str, server: FakeModelServer, streamed: bool
) -> None:
    server.scripts = [answer(FORECAST), SNOW]
    model = ChatOpenAI(
        model=MODEL,
        base_url=url,
        api_key="none",  # type: ignore[arg-type]
        max_retries=0,
        store=False,
        include=["reasoning.encrypted_content"],
        output_version="responses/v1",
        streaming=streamed,
    ).bind_tools([forecast])
    called = model.invoke("Weather in Oslo?")
    assert isinstance(called, AIMessage)
    [call] = called.tool_calls
    result = ToolMessage(forecast.invoke(call["args"]), tool_call_id=call["id"])
    assert model.invoke([HumanMessage("Weather in Oslo?"), called, result]).text == "It snows in Oslo."
    assert server.chats[1].messages[1].reasoning == "Look it up."


@pytest.mark.parametrize("responses", [True, False])
def test_langchain_when_it_streams_with_pauses_then_the_pieces_make_the_answer(
    url: str, server: FakeModelServer, responses: bool
) -> None:
    server.scripts = [SLOW]
    pieces = list(langchain_model(url, responses=responses).stream("Hi"))
    assert "".join(piece.text for piece in pieces) == "Hello!"


def test_langchain_when_it_asks_for_a_summary_then_it_reads_the_reasoning_as_it_streams(url: str) -> None:
    model = ChatOpenAI(
        model=MODEL,
        base_url=url,
        api_key="none",  # type: ignore[arg-type]
        max_retries=0,
        reasoning={"summary": "auto"},
        output_version="responses/v1",
    )
    blocks = [block for piece in model.stream("Hi") for block in piece.content if isinstance(block, dict)]
    summaries = [part for block in blocks if block["type"] == "reasoning" for part in block.get("summary", ())]
    assert "".join(part["text"] for part in summaries) == "Easy."


def test_langchain_when_it_wants_an_object_then_the_schema_is_asked_for(url: str, server: FakeModelServer) -> None:
    server.scripts = [answer('<|channel|>final<|message|>{"city":"Oslo","degrees":-3}<|return|>')]
    model = langchain_model(url, responses=True).with_structured_output(Fact)
    assert model.invoke("Oslo?") == Fact(city="Oslo", degrees=-3)
    assert server.chats[0].response_format is not None


def test_langchain_when_a_streamed_prompt_is_too_long_then_it_raises_what_shortens_conversations(
    url: str, server: FakeModelServer
) -> None:
    server.scripts = [[ContextLengthExceededError("Too long.")]]
    with pytest.raises(ContextOverflowError):
        list(langchain_model(url, responses=True).stream("Hi"))

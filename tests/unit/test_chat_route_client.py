"""POST /v1/chat/completions by OpenAI's own client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from openai import APIError, OpenAI, pydantic_function_tool
from pydantic import BaseModel

from gptoss_adapter.errors import ServiceUnavailableError
from gptoss_backend.settings_sources import load_settings
from support.chat_api import CALL
from support.fake_model_server import HELLO, FakeModelServer, Pause, answer

SETTINGS = load_settings({"model": "demo"}, environ={})


def test_openai_client_when_it_asks_then_it_reads_the_answer(openai: OpenAI) -> None:
    completion = openai.chat.completions.create(model="gpt-oss-demo", messages=[{"role": "user", "content": "Hi"}])
    assert completion.choices[0].message.content == "Hello!"
    assert completion.choices[0].message.reasoning == "Easy."  # type: ignore[attr-defined]
    assert completion.usage is not None
    assert completion.usage.total_tokens == 7 + len(HELLO) - 1


def test_openai_client_when_it_streams_then_it_reads_every_chunk(openai: OpenAI) -> None:
    chunks = list(
        openai.chat.completions.create(model="gpt-oss-demo", messages=[{"role": "user", "content": "Hi"}], stream=True)
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello!"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_openai_client_when_a_later_choice_begins_first_then_its_stream_gathers_all(
    openai: OpenAI, server: FakeModelServer
) -> None:
    late = [HELLO[0], Pause(0.1), *HELLO[1:]]
    server.scripts = [late, HELLO, late]
    user: Any = {"role": "user", "content": "Hi"}
    with openai.chat.completions.stream(model="gpt-oss-demo", messages=[user], n=3) as stream:
        told = [choice for event in stream if event.type == "chunk" for choice in event.chunk.choices]
        completion = stream.get_final_completion()
    assert [(choice.index, choice.message.role) for choice in completion.choices] == [
        (index, "assistant") for index in range(3)
    ]
    assert [choice.message.content for choice in completion.choices] == ["Hello!"] * 3
    assert told[2].index != 0 or told[1].index != 0  # the others did not wait for the first


class Weather(BaseModel):
    """Tell the weather."""

    city: str


def created(openai: OpenAI, messages: list[Any], tools: list[Any]) -> Any:  # noqa: ANN401 (a message of the client's)
    return openai.chat.completions.create(model="gpt-oss-demo", messages=messages, tools=tools).choices[0].message


def parsed(openai: OpenAI, messages: list[Any], tools: list[Any]) -> Any:  # noqa: ANN401
    return openai.chat.completions.parse(model="gpt-oss-demo", messages=messages, tools=tools).choices[0].message


def streamed(openai: OpenAI, messages: list[Any], tools: list[Any]) -> Any:  # noqa: ANN401
    with openai.chat.completions.stream(model="gpt-oss-demo", messages=messages, tools=tools) as told:
        return told.get_final_completion().choices[0].message


@pytest.mark.parametrize("ask_for", [created, parsed, streamed])
def test_openai_client_when_it_sends_an_answer_back_then_it_is_taken(
    openai: OpenAI, server: FakeModelServer, ask_for: Callable[..., Any]
) -> None:
    # parse and stream add fields of their own to what they return: parsed, parsed_arguments, index
    server.script = answer(CALL)
    messages: list[Any] = [{"role": "user", "content": "Weather?"}]
    tools: list[Any] = [pydantic_function_tool(Weather, name="weather")]
    message = ask_for(openai, messages, tools)
    assert message.tool_calls
    messages += [message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "Snow"}]
    server.script = HELLO
    assert openai.chat.completions.create(model="gpt-oss-demo", messages=messages).choices[0].message.content
    _, sent_back, _ = server.chats[-1].messages
    assert ask_for is streamed or sent_back.reasoning == "Look it up."  # the helper for streams joins what it knows
    assert sent_back.tool_calls[0].arguments == '{"city":"Oslo"}'


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # the client's own, of what it sends
def test_openai_client_when_it_sends_a_parsed_answer_back_then_it_is_taken(
    openai: OpenAI, server: FakeModelServer
) -> None:
    server.script = answer('<|channel|>final<|message|>{"city":"Oslo"}<|return|>')
    messages: list[Any] = [{"role": "user", "content": "Where?"}]
    parse = openai.chat.completions.parse
    message = parse(model="gpt-oss-demo", messages=messages, response_format=Weather).choices[0].message
    assert message.parsed == Weather(city="Oslo")
    messages += [message, {"role": "user", "content": "Sure?"}]
    server.script = HELLO
    assert openai.chat.completions.create(model="gpt-oss-demo", messages=messages).choices[0].message.content
    assert server.chats[-1].messages[1].content == '{"city":"Oslo"}'


def test_openai_client_when_a_stream_fails_then_it_raises(openai: OpenAI, server: FakeModelServer) -> None:
    server.script = [*HELLO[:5], ServiceUnavailableError("Gone.")]
    streamed = openai.chat.completions.create(
        model="gpt-oss-demo", messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    with pytest.raises(APIError, match="Gone"):
        list(streamed)

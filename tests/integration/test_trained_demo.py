"""What a stranger tries first: the demo model that is shipped answers with meaning, by the whole road."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessage

from gptoss_backend.demo.trained_checkpoint import write_trained_checkpoint
from support import live_server

MODEL = "gpt-oss-demo"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CITY: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "response",
        "schema": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = tmp_path_factory.mktemp("trained") / "demo"
    write_trained_checkpoint(folder)
    server = live_server.start(tmp_path_factory.mktemp("run"), folder)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60.0) as client:
        yield client
    status, output = live_server.stop(server)
    assert status == 0, output


def answer(client: openai.OpenAI, *texts: str, **options: Any) -> ChatCompletionMessage:  # noqa: ANN401 (the SDK's)
    """Return the answer to a conversation: the user's and the assistant's texts in turn."""
    roles = ("user", "assistant")
    messages: Any = [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]
    done = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=256, **options)
    message: ChatCompletionMessage = done.choices[0].message
    return message


def reasoning(message: ChatCompletionMessage) -> str:
    """Return what it thought before; the SDK has no word for that."""
    return str((message.model_extra or {})["reasoning"])


def test_demo_when_greeted_then_it_reasons_apart_and_answers_in_words(client: openai.OpenAI) -> None:
    message = answer(client, "Hello!")

    assert message.content is not None
    assert "Hello" in message.content or "Hi" in message.content
    assert reasoning(message)
    assert "<|" not in message.content + reasoning(message)


def test_demo_when_effort_rises_then_it_reasons_longer(client: openai.OpenAI) -> None:
    low, high = (answer(client, "What is this project?", reasoning_effort=effort) for effort in ("low", "high"))

    assert len(reasoning(low)) < len(reasoning(high))


def test_demo_when_it_is_not_to_reason_then_it_answers_calls_and_fills_at_once(client: openai.OpenAI) -> None:
    said = answer(client, "Hello!", reasoning_effort="none")
    called = answer(client, "What is the weather in Paris?", tools=[WEATHER], reasoning_effort="none")
    filled = answer(client, "Make JSON: city Paris and days 3", response_format=CITY, reasoning_effort="none")

    for message in (said, called, filled):
        assert not (message.model_extra or {}).get("reasoning")
    assert "H" in (said.content or "")
    assert called.tool_calls
    assert json.loads(filled.content or "").keys() == {"city", "days"}


def test_demo_when_given_a_tool_then_it_calls_it_with_what_the_user_said(client: openai.OpenAI) -> None:
    (call,) = answer(client, "What is the weather in Paris?", tools=[WEATHER]).tool_calls or ()

    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}


def test_demo_when_given_a_schema_then_it_fills_it(client: openai.OpenAI) -> None:
    message = answer(client, "Make JSON: city Paris and days 3", response_format=CITY)

    assert json.loads(message.content or "") == {"city": "Paris", "days": 3}


def test_demo_when_told_a_name_then_it_knows_it_later(client: openai.OpenAI) -> None:
    told = ("My name is Anna.", "Nice to meet you, Anna.")

    assert "Anna" in (answer(client, *told, "What is my name?").content or "")

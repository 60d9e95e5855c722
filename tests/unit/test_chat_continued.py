"""An answer that was begun goes on, in chats and messages: a real socket, a scripted model server in Triton's place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from anthropic import Anthropic
from openai import BadRequestError, OpenAI

from gptoss_backend.harmony.vocabulary import encoding
from support.fake_model_server import FakeModelServer, answer, scored
from support.live_app import chat_body
from support.messages_api import COUNT, HI, MESSAGES, MODEL, message_body, serving

BEGUN: list[Any] = [*HI, {"role": "assistant", "content": "It is"}]
GOES_ON = {"continue_final_message": True, "add_generation_prompt": False}
NOON = " noon, or later."


@pytest.fixture(scope="module")
def url_and_server() -> Iterator[tuple[str, FakeModelServer]]:
    server = FakeModelServer()
    with serving(server) as url:
        yield url, server


@pytest.fixture
def server(url_and_server: tuple[str, FakeModelServer]) -> FakeModelServer:
    server = url_and_server[1]
    server.forget()
    server.script = answer(f"{NOON}<|return|>")
    return server


@pytest.fixture
def openai(url_and_server: tuple[str, FakeModelServer], server: FakeModelServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url_and_server[0]}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic(url_and_server: tuple[str, FakeModelServer], server: FakeModelServer) -> Iterator[Anthropic]:
    with Anthropic(base_url=url_and_server[0], api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def http(url_and_server: tuple[str, FakeModelServer], server: FakeModelServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url_and_server[0], timeout=10) as client:
        yield client


def create(client: OpenAI, **fields: Any) -> Any:  # noqa: ANN401
    asked: dict[str, Any] = {"model": MODEL, "messages": BEGUN, "extra_body": GOES_ON, **fields}
    return client.chat.completions.create(**asked)


def prompt_text(server: FakeModelServer) -> str:
    text: str = encoding().decode(server.prompts[0])
    return text


# --- chats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [GOES_ON, {"continue_final_message": True}], ids=["vLLM", "SGLang"])
def test_chat_when_the_last_message_goes_on_then_only_what_is_new_is_answered(
    openai: OpenAI, server: FakeModelServer, fields: dict[str, bool]
) -> None:
    [choice] = create(openai, extra_body=fields).choices
    assert (choice.message.content, choice.finish_reason) == (NOON, "stop")
    assert prompt_text(server).endswith("<|start|>assistant<|channel|>final<|message|>It is")


def test_chat_when_it_goes_on_streamed_then_the_pieces_join_to_the_same(openai: OpenAI) -> None:
    pieces = [chunk.choices[0].delta.content or "" for chunk in create(openai, stream=True)]
    assert "".join(pieces) == NOON
    assert len(pieces) > 3


def test_chat_when_reasoning_goes_on_then_it_is_told_as_such_and_counted_from_there(
    openai: OpenAI, server: FakeModelServer
) -> None:
    server.script = answer(" the clock.<|end|><|start|>assistant<|channel|>final<|message|>Noon.<|return|>")
    completion = create(openai, messages=[*HI, {"role": "assistant", "content": "", "reasoning_content": "I ask"}])
    message = completion.choices[0].message
    assert (message.reasoning, message.content) == (" the clock.", "Noon.")
    assert completion.usage.completion_tokens_details.reasoning_tokens == len(encoding().encode(" the clock.")) + 1


def test_chat_when_it_goes_on_with_stop_and_logprobs_then_both_are_of_what_is_new(
    openai: OpenAI, server: FakeModelServer
) -> None:
    server.script = scored(answer(f"{NOON}<|return|>"))
    [choice] = create(openai, stop=["is", ", or"], logprobs=True).choices
    assert choice.message.content == " noon"
    assert [token.token for token in choice.logprobs.content] == [" noon"]


def test_chat_when_several_answers_go_on_then_each_goes_on_with_the_same_text(
    openai: OpenAI, server: FakeModelServer
) -> None:
    assert [choice.message.content for choice in create(openai, n=2).choices] == [NOON, NOON]
    assert len(server.chats) == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"continue_final_message": "yes"}, "continue_final_message"),
        (
            {**GOES_ON, "tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"},
            "tool_choice",
        ),
    ],
    ids=["both", "neither", "no boolean", "a call is required"],
)
def test_chat_when_it_cannot_go_on_then_the_field_is_named(
    openai: OpenAI, fields: dict[str, object], param: str
) -> None:
    with pytest.raises(BadRequestError) as refused:
        create(openai, extra_body=fields)
    assert refused.value.param == param


def test_chat_when_nothing_is_said_of_going_on_then_a_new_message_begins(
    http: httpx.Client, server: FakeModelServer
) -> None:
    body = chat_body(messages=BEGUN, continue_final_message=False, add_generation_prompt=True)
    http.post("/v1/chat/completions", json=body).raise_for_status()
    assert not server.chats[0].continues_last


# --- messages -------------------------------------------------------------------------------------------------------


def test_message_when_it_ends_with_the_assistants_turn_then_that_goes_on(
    anthropic: Anthropic, server: FakeModelServer
) -> None:
    message = anthropic.messages.create(model=MODEL, max_tokens=64, messages=BEGUN)
    assert [block.type for block in message.content] == ["text"]
    assert message.content[0].text == NOON  # type: ignore[union-attr]
    assert prompt_text(server).endswith("<|channel|>final<|message|>It is")


def test_message_when_it_goes_on_streamed_then_the_block_holds_what_is_new(anthropic: Anthropic) -> None:
    with anthropic.messages.stream(model=MODEL, max_tokens=64, messages=BEGUN, stop_sequences=[","]) as stream:
        assert "".join(stream.text_stream) == " noon"
        assert stream.get_final_message().stop_sequence == ","


def test_message_when_the_begun_turn_thought_then_the_thought_is_told_before_it(
    anthropic: Anthropic, server: FakeModelServer
) -> None:
    thought: Any = {"type": "thinking", "thinking": "Easy.", "signature": ""}
    turn: Any = {"role": "assistant", "content": [thought, {"type": "text", "text": "It is"}]}
    anthropic.messages.create(model=MODEL, max_tokens=64, messages=[*HI, turn])  # type: ignore[list-item]
    assert "analysis<|message|>Easy.<|end|>" in prompt_text(server)


@pytest.mark.parametrize("last", [{"role": "assistant", "content": ""}, {"role": "system", "content": "Be brief."}])
def test_message_when_nothing_was_begun_or_instructions_follow_then_a_new_turn_begins(
    http: httpx.Client, server: FakeModelServer, last: dict[str, str]
) -> None:
    earlier = HI if last["role"] == "assistant" else BEGUN
    http.post(MESSAGES, json=message_body(messages=[*earlier, last])).raise_for_status()
    assert not server.chats[0].continues_last


def test_message_when_a_begun_turn_is_counted_then_its_text_is(http: httpx.Client) -> None:
    def count(messages: list[Any]) -> int:
        counted = http.post(COUNT, json={"model": MODEL, "messages": messages})
        return int(counted.raise_for_status().json()["input_tokens"])

    longer = [*HI, {"role": "assistant", "content": "It is noon"}]
    assert count(longer) == count(BEGUN) + 1

"""What speaks to Anthropic speaks to us: the official client.

A scripted model server stands in Triton's place, because a tool call needs a model that calls.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from anthropic import Anthropic, APIStatusError, AuthenticationError, NotFoundError, beta_tool
from anthropic.types import MessageParam, ModelInfo, TextBlock, ThinkingBlock, ToolParam, ToolUseBlock
from pydantic import BaseModel

from gptoss_adapter.errors import ServiceUnavailableError
from gptoss_adapter.inference import GenerationStep
from gptoss_backend.contract import Role
from gptoss_client.keys import add_key
from support.fake_model_server import CHAT_PROMPT, HELLO, STARTED, FakeModelServer, answer, token_ids
from support.messages_api import MODEL, WEATHER, serving
from support.responses_api import CALL

SNOW = answer("<|channel|>final<|message|>It snows in Oslo.<|return|>")
HI: list[MessageParam] = [{"role": "user", "content": "Hi"}]
TOOL: ToolParam = {
    "name": "weather",
    "description": "Tell the weather.",
    "input_schema": WEATHER["input_schema"],  # type: ignore[typeddict-item]
}


@pytest.fixture(scope="module")
def url_and_server() -> Iterator[tuple[str, FakeModelServer]]:
    server = FakeModelServer()
    with serving(server) as url:
        yield url, server


@pytest.fixture
def client(url_and_server: tuple[str, FakeModelServer], server: FakeModelServer) -> Iterator[Anthropic]:
    with Anthropic(base_url=url_and_server[0], api_key="none", max_retries=0) as client:
        yield client


def test_anthropic_client_when_it_creates_then_it_reads_the_answer(client: Anthropic) -> None:
    message = client.messages.create(model=MODEL, max_tokens=64, messages=HI, system="Be brief.")
    thinking, text = message.content
    assert isinstance(thinking, ThinkingBlock)
    assert isinstance(text, TextBlock)
    assert (thinking.thinking, text.text, message.stop_reason) == ("Easy.", "Hello!", "end_turn")
    assert message._request_id is not None


def test_anthropic_client_when_it_lists_the_models_then_they_are_described_in_its_words(client: Anthropic) -> None:
    listed = list(client.models.list())
    assert [model.id for model in listed] == [MODEL, "gpt-oss"]
    for model in (*listed, client.models.retrieve(MODEL)):
        ModelInfo.model_validate(model.model_dump(include=set(ModelInfo.model_fields)), strict=True)
        assert (model.type, model.display_name, model.lifecycle) == ("model", MODEL, "active")


def test_anthropic_client_when_it_streams_then_its_helper_accumulates_the_answer(client: Anthropic) -> None:
    with client.messages.stream(model=MODEL, max_tokens=64, messages=HI) as stream:
        assert "".join(stream.text_stream) == "Hello!"
        message = stream.get_final_message()
    whole = client.messages.create(model=MODEL, max_tokens=64, messages=HI)
    assert [block.to_dict() for block in message.content] == [block.to_dict() for block in whole.content]
    assert (message.stop_reason, message.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


def test_anthropic_client_when_a_tool_is_called_in_a_stream_then_its_result_leads_to_the_answer(
    client: Anthropic, server: FakeModelServer
) -> None:
    server.scripts = [answer(CALL), SNOW]
    with client.messages.stream(model=MODEL, max_tokens=64, messages=HI, tools=[TOOL]) as stream:
        calling = stream.get_final_message()
    call = calling.content[-1]
    assert isinstance(call, ToolUseBlock)
    assert (call.name, call.input, calling.stop_reason) == ("weather", {"city": "Oslo"}, "tool_use")
    results: list[MessageParam] = [
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "Snow"}]}
    ]
    answered = client.messages.create(
        model=MODEL, max_tokens=64, messages=[*HI, calling.to_param(), *results], tools=[TOOL]
    )
    assert isinstance(answered.content[0], TextBlock)
    assert answered.content[0].text == "It snows in Oslo."
    called, returned = server.chats[-1].messages[1:]
    assert called.reasoning == "Look it up."
    assert json.loads(called.tool_calls[0].arguments) == {"city": "Oslo"}
    assert (returned.role, returned.content) == (Role.TOOL, "Snow")


def test_anthropic_client_when_its_runner_has_a_tool_then_it_runs_it_to_the_end(
    client: Anthropic, server: FakeModelServer
) -> None:
    @beta_tool
    def weather(city: str) -> str:
        """Tell the weather."""
        return f"Snow in {city}"

    server.scripts = [answer(CALL), SNOW]
    runner = client.beta.messages.tool_runner(model=MODEL, max_tokens=64, messages=[*HI], tools=[weather])  # type: ignore[list-item]
    last = runner.until_done()
    assert last.content[-1].to_dict()["text"] == "It snows in Oslo."
    assert server.chats[-1].messages[-1].content == "Snow in Oslo"


def test_anthropic_client_when_it_parses_then_the_answer_is_of_the_model(
    client: Anthropic, server: FakeModelServer
) -> None:
    class Place(BaseModel):
        city: str

    server.scripts = [answer('<|channel|>final<|message|>{"city":"Oslo"}<|return|>')]
    parsed = client.messages.parse(model=MODEL, max_tokens=64, messages=HI, output_format=Place)
    assert parsed.parsed_output == Place(city="Oslo")
    assert server.samplings[-1].structure is not None


def test_anthropic_client_when_it_counts_then_it_reads_the_number(client: Anthropic) -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=HI, system="Be brief.", tools=[TOOL])
    assert counted.input_tokens == len(CHAT_PROMPT)


def test_anthropic_client_when_it_is_refused_then_it_raises_its_own_errors(
    client: Anthropic, server: FakeModelServer
) -> None:
    with pytest.raises(NotFoundError) as unknown:
        client.messages.create(model="claude-opus-4-7", max_tokens=64, messages=HI)
    assert unknown.value.request_id is not None
    server.script = [
        STARTED,
        GenerationStep(token_ids("<|channel|>final<|message|>Hel")),
        ServiceUnavailableError("Away."),
    ]
    with (
        pytest.raises(APIStatusError, match="Away"),
        client.messages.stream(model=MODEL, max_tokens=64, messages=HI) as stream,
    ):
        stream.until_done()
    server.script = HELLO


def test_anthropic_client_when_keys_are_asked_for_then_both_its_headers_are_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    key = add_key(path, "alice")
    with serving(FakeModelServer(), keys_path=str(path)) as url:
        for given in ({"api_key": key}, {"auth_token": key}):
            with Anthropic(base_url=url, max_retries=0, **given) as client:  # type: ignore[arg-type]
                assert client.messages.count_tokens(model=MODEL, messages=HI).input_tokens
        with Anthropic(base_url=url, max_retries=0, api_key="none") as client, pytest.raises(AuthenticationError):
            client.messages.count_tokens(model=MODEL, messages=HI)

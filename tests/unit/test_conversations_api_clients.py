"""What keeps conversations at OpenAI keeps them here: the official client and the Agents SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from agents import (
    Agent,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from openai.types.conversations import Message
from openai.types.responses import ResponseReasoningItem

from gptoss_adapter.schemas.carried_text import reasoning_of
from gptoss_backend.contract import Role
from support.fake_model_server import HELLO, FakeModelServer, Pause, answer
from support.official_client import client_fixtures
from support.responses_api import CALL, MODEL

SNOW = answer("<|channel|>final<|message|>It snows in Oslo.<|return|>")

set_tracing_disabled(True)  # it would be sent to OpenAI


url_and_server, url, client = client_fixtures()


# --- the official client --------------------------------------------------------------------------------------------


def test_openai_client_when_it_keeps_a_conversation_then_every_method_works(client: OpenAI) -> None:
    conversation = client.conversations.create(metadata={"topic": "tea"}, items=[{"role": "user", "content": "one"}])
    assert client.conversations.retrieve(conversation.id) == conversation
    updated = client.conversations.update(conversation.id, metadata={"topic": "coffee"})
    assert updated.metadata == {"topic": "coffee"}
    page = client.conversations.items.create(
        conversation.id, items=[{"role": "user", "content": str(number)} for number in range(2)]
    )
    first, _ = page.data
    assert client.conversations.items.retrieve(first.id, conversation_id=conversation.id) == first  # type: ignore[union-attr]
    listed = list(client.conversations.items.list(conversation.id, limit=1, order="asc"))  # follows the pages
    assert [type(item) for item in listed] == [Message] * 3
    assert listed[1:] == page.data
    client.conversations.items.delete(first.id, conversation_id=conversation.id)  # type: ignore[union-attr]
    assert len(client.conversations.items.list(conversation.id).data) == 2
    assert client.conversations.delete(conversation.id).deleted is True
    with pytest.raises(NotFoundError, match=f"Conversation with id '{conversation.id}' not found"):
        client.conversations.retrieve(conversation.id)


def test_openai_client_when_responses_go_on_from_a_conversation_then_it_reads_what_was_added(
    client: OpenAI, server: FakeModelServer
) -> None:
    conversation = client.conversations.create()
    response = client.responses.create(model=MODEL, input="Hi", conversation=conversation.id)
    assert response.conversation is not None
    assert response.conversation.id == conversation.id
    with client.responses.stream(model=MODEL, input="More", conversation=response.conversation.id) as stream:
        assert stream.until_done().get_final_response().conversation == response.conversation
    items = list(client.conversations.items.list(conversation.id, order="asc", include=["reasoning.encrypted_content"]))
    assert [item.type for item in items] == ["message", "reasoning", "message"] * 2
    assert isinstance(items[1], ResponseReasoningItem)
    assert reasoning_of(items[1].encrypted_content or "") == "Easy."
    assert [message.content for message in server.chats[1].messages] == ["Hi", "Hello!", "More"]


def test_openai_client_when_a_conversation_is_locked_then_it_reads_that(
    client: OpenAI, server: FakeModelServer
) -> None:
    server.script = [*HELLO[:5], Pause(0.2), *HELLO[5:]]
    conversation = client.conversations.create().id
    with client.responses.create(model=MODEL, input="Hi", conversation=conversation, stream=True) as events:
        next(events)
        with pytest.raises(BadRequestError) as refusal:
            client.responses.create(model=MODEL, input="Hi", conversation=conversation)
    assert (refusal.value.code, refusal.value.param) == ("conversation_locked", "conversation")


# --- the OpenAI Agents SDK ------------------------------------------------------------------------------------------


@function_tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"Snow in {city}"


@asynccontextmanager
async def meteorologist(url: str) -> AsyncIterator[tuple[Agent[None], AsyncOpenAI]]:
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        model = OpenAIResponsesModel(model=MODEL, openai_client=client)
        yield Agent(name="Meteorologist", instructions="Tell the weather.", tools=[weather], model=model), client


def roles(server: FakeModelServer, number: int) -> list[Role]:
    return [message.role for message in server.chats[number].messages]


@pytest.mark.parametrize("streamed", [False, True])
def test_agents_sdk_when_its_session_is_a_conversation_then_items_are_kept_taken_back_and_cleared(
    url: str, server: FakeModelServer, streamed: bool
) -> None:
    async def ask(agent: Agent[None], text: str, session: OpenAIConversationsSession) -> str:
        if not streamed:
            return str((await Runner.run(agent, text, session=session)).final_output)
        result = Runner.run_streamed(agent, text, session=session)
        async for _ in result.stream_events():
            pass
        return str(result.final_output)

    async def run() -> None:
        async with meteorologist(url) as (agent, client):
            session = OpenAIConversationsSession(openai_client=client)
            assert await ask(agent, "Weather in Oslo?", session) == "It snows in Oslo."
            assert await ask(agent, "Thanks", session) == "Hello!"
            assert roles(server, 2)[1:] == [Role.USER, Role.ASSISTANT, Role.TOOL, Role.ASSISTANT, Role.USER]
            assert server.chats[2].messages[2].reasoning == "Look it up."
            kept: list[Any] = await session.get_items()
            assert [item["type"] for item in kept] == [
                *("message", "reasoning", "function_call", "function_call_output", "message"),
                *("message", "reasoning", "message"),
            ]
            assert await session.get_items(limit=1) == kept[-1:]
            assert await session.pop_item() == kept[-1]
            assert await session.get_items() == kept[:-1]
            await session.add_items([{"role": "user", "content": str(number)} for number in range(45)])
            assert len(await session.get_items()) == 52
            conversation = session.session_id
            await session.clear_session()
            with pytest.raises(NotFoundError):
                await client.conversations.retrieve(conversation)

    server.scripts = [answer(CALL), SNOW, HELLO]
    asyncio.run(run())


def test_agents_sdk_when_the_server_keeps_the_conversation_then_only_what_is_new_is_sent(
    url: str, server: FakeModelServer
) -> None:
    async def run() -> None:
        async with meteorologist(url) as (agent, client):
            conversation = (await client.conversations.create()).id
            for text in ("Weather in Oslo?", "Thanks"):
                await Runner.run(agent, text, conversation_id=conversation)
            items = [item.type async for item in client.conversations.items.list(conversation, order="asc")]
            assert items == [
                *("message", "reasoning", "function_call", "function_call_output", "message"),
                *("message", "reasoning", "message"),
            ]

    server.scripts = [answer(CALL), SNOW, HELLO]
    asyncio.run(run())
    assert roles(server, 2)[1:] == [Role.USER, Role.ASSISTANT, Role.TOOL, Role.ASSISTANT, Role.USER]


def test_agents_sdk_when_the_conversation_is_locked_then_it_waits_and_asks_again(
    url: str, server: FakeModelServer
) -> None:
    async def run() -> str:
        async with meteorologist(url) as (agent, client):
            conversation = (await client.conversations.create()).id
            await client.responses.create(model=MODEL, input="Hi", conversation=conversation, background=True)
            return str((await Runner.run(agent, "Thanks", conversation_id=conversation)).final_output)

    server.scripts = [[*HELLO[:5], Pause(0.5), *HELLO[5:]]]
    assert asyncio.run(run()) == "Hello!"
    assert [message.content for message in server.chats[-1].messages][1:] == ["Hi", "Hello!", "Thanks"]

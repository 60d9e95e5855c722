"""`truncation: auto`: what is oldest of a conversation is left out until the rest fits."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_adapter.inference import PromptIds
from gptoss_adapter.responses.truncation import cut_places, without_oldest
from gptoss_backend.contract import ChatMessage, ChatRequest, Role, ToolCall
from support.conversations_api import created, items, user
from support.fake_model_server import FakeModelServer
from support.responses_api import MODEL, RESPONSES, refusal, respond, serving
from support.triton_page import triton_with

CONTEXT = 100
PAGE = f'gptoss_engine_max_model_len{{model="gpt_oss_demo",instance="gpt_oss_demo_0_0"}} {CONTEXT}\n'


class CountingServer(FakeModelServer):
    """Its prompts have a token for each letter that was said."""

    async def preprocess(self, chat: ChatRequest, request_id: str) -> PromptIds:
        await super().preprocess(chat, request_id)
        num_tokens = sum(len(message.content or "") for message in chat.messages)
        return PromptIds(struct.pack(f"<{num_tokens}i", *[1] * num_tokens))


@pytest.fixture(scope="module")
def url_and_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, CountingServer]]:
    server = CountingServer()
    path = tmp_path_factory.mktemp("store") / "responses.sqlite"
    with triton_with(PAGE) as (port, _), serving(path, server, triton_metrics_port=port) as url:
        yield url, server


def said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def call(name: str) -> dict[str, Any]:
    return {"type": "function_call", "call_id": name, "name": "f", "arguments": "{}"}


def output(name: str, text: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": name, "output": text}


def shown(server: CountingServer) -> list[str | None]:
    """Return what the model was shown in the end."""
    num_tokens = len(server.prompts[-1])
    chats = [chat for chat in server.chats if sum(len(one.content or "") for one in chat.messages) == num_tokens]
    return [message.content for message in chats[-1].messages]


def test_conversation_when_it_is_too_long_then_its_oldest_is_left_out_and_no_more(
    client: httpx.Client, server: CountingServer
) -> None:
    turns = [said("user", f"{number:02}" + "x" * 18) for number in range(10)]
    told = respond(client, turns, truncation="auto", max_output_tokens=30)
    assert told["truncation"] == "auto"
    assert [text and text[:2] for text in shown(server)] == ["07", "08", "09"]
    assert len(server.chats) <= 5


def test_conversation_when_it_is_kept_and_too_long_then_its_oldest_is_left_out_of_the_prompt_only(
    client: httpx.Client, server: CountingServer
) -> None:
    conversation = created(client, items=[user(f"{number:02}" + "x" * 18) for number in range(9)])
    respond(client, "09" + "x" * 18, conversation=conversation, truncation="auto", max_output_tokens=30)
    assert [text and text[:2] for text in shown(server)] == ["07", "08", "09"]
    assert len(items(client, conversation)) == 12


def test_conversation_when_it_fits_then_it_is_rendered_once(client: httpx.Client, server: CountingServer) -> None:
    respond(client, [said("user", "x" * 60)], truncation="auto", max_output_tokens=40)
    assert len(server.chats) == 1


@pytest.mark.parametrize(("max_tokens", "most"), [(1, 99), (30, 70), (4000, 50), (None, 75)])
def test_conversation_when_it_is_cut_then_the_answer_has_room_though_at_most_half_of_the_context(
    client: httpx.Client, server: CountingServer, monkeypatch: pytest.MonkeyPatch, max_tokens: int | None, most: int
) -> None:
    monkeypatch.setattr("gptoss_adapter.serving._DEMO_MAX_TOKENS", None)  # as the other models
    respond(client, [said("user", "x")] * 200, truncation="auto", max_output_tokens=max_tokens)
    assert len(server.prompts[-1]) == most


def test_instructions_when_a_conversation_is_cut_then_they_stay(client: httpx.Client, server: CountingServer) -> None:
    turns = [said("developer", "D"), said("user", "a" * 60), said("system", "S"), said("user", "b" * 60)]
    respond(client, turns, instructions="I", truncation="auto", max_output_tokens=20)
    assert shown(server) == ["I", "D", "S", "b" * 60]


@pytest.mark.parametrize("verbosity", ["low", "high"])
def test_last_message_when_the_answers_length_is_wished_for_then_it_stays(
    client: httpx.Client, server: CountingServer, verbosity: str
) -> None:
    respond(client, [said("user", "a"), said("user", "b" * 120)], truncation="auto", text={"verbosity": verbosity})
    assert len(server.prompts[-1]) > 120  # which the engine refuses


def test_calls_when_a_conversation_is_cut_then_none_is_parted_from_its_output(
    client: httpx.Client, server: CountingServer
) -> None:
    turns = [
        said("user", "u" * 20),
        call("one"),
        output("one", "1" * 20),
        call("two"),
        call("three"),
        output("three", "3" * 20),
        said("user", "v" * 20),
        output("two", "2" * 20),
        said("user", "w" * 20),
    ]
    respond(client, turns, truncation="auto", max_output_tokens=19)  # 81 remain: what belongs to two and three, and w
    assert shown(server) == [None, "3" * 20, "v" * 20, "2" * 20, "w" * 20]
    respond(client, turns, truncation="auto", max_output_tokens=25)
    assert shown(server) == ["w" * 20]


def test_conversation_when_its_last_message_alone_is_too_long_then_it_goes_to_the_engine_as_it_is(
    client: httpx.Client, server: CountingServer
) -> None:
    respond(client, [said("user", "a"), said("user", "b" * 120)], truncation="auto")
    assert len(server.prompts[-1]) == 121  # which refuses it


@pytest.mark.parametrize("truncation", ["disabled", None])
def test_conversation_when_it_is_not_to_be_cut_then_it_is_not(
    client: httpx.Client, server: CountingServer, truncation: str | None
) -> None:
    told = respond(client, [said("user", "x")] * 200, truncation=truncation)
    assert (told["truncation"], len(server.prompts[-1])) == ("disabled", 200)


def test_conversation_when_its_tokens_are_counted_then_those_left_out_are_not(client: httpx.Client) -> None:
    body = {"model": MODEL, "input": [said("user", "x")] * 200, "truncation": "auto", "max_output_tokens": 30}
    assert client.post(f"{RESPONSES}/input_tokens", json=body).json()["input_tokens"] == 70
    assert refusal(client, truncation="always")["param"] == "truncation"


def test_conversation_when_nobody_tells_the_context_then_the_engine_is_asked(tmp_path: Path) -> None:
    server = CountingServer()
    with serving(tmp_path / "r.sqlite", server) as url, httpx.Client(base_url=url) as client:
        respond(client, [said("user", "x")] * 200, truncation="auto")
    assert len(server.prompts[-1]) == 200


def test_instructions_when_what_they_stood_behind_is_left_out_then_they_lead_what_is_left() -> None:
    rule, question, answer = ChatMessage(Role.DEVELOPER, "r"), ChatMessage(Role.USER, "q"), ChatMessage(Role.USER, "a")
    messages = (question, rule, answer, rule, question)
    assert [without_oldest(messages, place) for place in cut_places(messages)] == [
        (rule, answer, rule, question),
        (rule, rule, question),
    ]


_ROLES = st.lists(st.sampled_from("uscr"), min_size=1, max_size=30)


@given(_ROLES, st.randoms())
def test_places_when_a_conversation_is_cut_at_any_then_each_result_has_its_call(kinds: str, random: Any) -> None:  # noqa: ANN401 (hypothesis')
    messages: list[ChatMessage] = []
    open_calls: list[str] = []
    for at, kind in enumerate(kinds):
        if kind == "c":
            open_calls.append(str(at))
            messages.append(ChatMessage(Role.ASSISTANT, tool_calls=(ToolCall(str(at), "f", "{}"),)))
        elif kind == "r" and open_calls:
            called = open_calls.pop(random.randrange(len(open_calls)))
            messages.append(ChatMessage(Role.TOOL, "x", tool_call_id=called))
        else:
            messages.append(ChatMessage(Role.SYSTEM if kind == "s" else Role.USER, "x"))
    previous = len(messages)
    for place in cut_places(messages):
        left = without_oldest(messages, place)
        calls = {call.id for message in left for call in message.tool_calls}
        assert {message.tool_call_id for message in left if message.tool_call_id} <= calls
        assert [one for one in left if one.role is Role.SYSTEM] == [one for one in messages if one.role is Role.SYSTEM]
        assert any(one.role is not Role.SYSTEM for one in left)
        assert 0 < len(left) < previous
        previous = len(left)

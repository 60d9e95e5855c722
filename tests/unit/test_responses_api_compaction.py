"""A conversation made shorter, through the official client: what stays, what the summary is, and how it goes on."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest
from openai import BadRequestError, InternalServerError, OpenAI
from openai.types.responses import CompactedResponse

from gptoss_adapter.schemas.carried_text import carried_summary, summary_of
from gptoss_backend.contract import FinishReason, ReasoningEffort, Role, ToolChoiceMode
from support.fake_model_server import FakeModelServer, answer
from support.responses_api import CALL, MODEL, RESPONSES, WEATHER, keeping_adapter, listed, respond

url_and_server = keeping_adapter()

SUMMARY = "Oslo was asked for; it snows there."
WRITES = answer(
    f"<|channel|>analysis<|message|>Sum up.<|end|><|start|>assistant<|channel|>final<|message|>{SUMMARY}<|return|>"
)
TALK: list[Any] = [
    {"role": "developer", "content": "Speak of weather."},
    {"role": "user", "content": "How is Oslo?"},
    {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city":"Oslo"}'},
    {"type": "function_call_output", "call_id": "call_1", "output": "Snow"},
    {"role": "assistant", "content": "It snows."},
    {"role": "user", "content": "And tomorrow?"},
]
ITEM: Any = {"type": "compaction", "encrypted_content": carried_summary(SUMMARY)}


def compact(openai: OpenAI, server: FakeModelServer, **fields: Any) -> CompactedResponse:  # noqa: ANN401
    server.scripts = [WRITES]
    return openai.responses.compact(**{"model": MODEL, "input": TALK, **fields})


def dumped(compacted: CompactedResponse) -> list[Any]:
    """Return its output as it came: the SDK has no other type for messages there than the assistant's, and warns."""
    return [item.model_dump(exclude_unset=True, warnings=False) for item in compacted.output]


def told(server: FakeModelServer) -> list[tuple[Role, str | None]]:
    """Return what the model was told last."""
    return [(message.role, message.content) for message in server.chats[-1].messages]


# --- making one -----------------------------------------------------------------------------------------------------


def test_compaction_when_a_conversation_is_sent_then_others_words_stay_and_the_rest_is_summed_up(
    openai: OpenAI, server: FakeModelServer
) -> None:
    compacted = compact(openai, server)
    *staying, last = dumped(compacted)
    assert [(item["role"], item["content"][0]["text"]) for item in staying] == [
        ("developer", "Speak of weather."),
        ("user", "How is Oslo?"),
        ("user", "And tomorrow?"),
    ]
    assert (last["type"], last["id"][:4], summary_of(last["encrypted_content"])) == ("compaction", "cmp_", SUMMARY)
    assert (compacted.object, compacted.id[:5]) == ("response.compaction", "resp_")
    assert compacted.usage.output_tokens_details.reasoning_tokens > 0


def test_compaction_when_others_words_stay_then_they_have_the_fields_that_openai_tells(
    openai: OpenAI, server: FakeModelServer
) -> None:
    said, _ = dumped(compact(openai, server, input="Hi"))
    assert said == {
        "id": said["id"],
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_text", "text": "Hi"}],
    }


def test_compaction_when_it_is_made_then_the_model_sees_all_and_is_asked_to_sum_it_up_without_tools(
    openai: OpenAI, server: FakeModelServer
) -> None:
    compact(openai, server, instructions="Be brief.", extra_body={"tools": [WEATHER], "reasoning": {"effort": "high"}})
    chat = server.chats[-1]
    assert [message.role for message in chat.messages] == [
        *(Role.SYSTEM, Role.DEVELOPER, Role.USER, Role.ASSISTANT, Role.TOOL, Role.ASSISTANT, Role.USER, Role.USER),
    ]
    assert "summary" in (chat.messages[-1].content or "")
    assert (chat.tools, chat.reasoning_effort) == ((), ReasoningEffort.HIGH)
    structure = server.samplings[-1].structure
    assert structure is not None
    assert structure.tool_choice.mode is ToolChoiceMode.NONE
    assert server.samplings[-1].max_tokens == 8192


def test_compaction_when_it_goes_on_from_a_response_then_that_ones_conversation_is_summed_up(
    client: httpx.Client, openai: OpenAI, server: FakeModelServer
) -> None:
    first = respond(client, "Hi")
    compacted = compact(openai, server, input="What else?", previous_response_id=first["id"])
    assert [item.type for item in compacted.output] == ["message", "message", "compaction"]
    assert [text for role, text in told(server) if role is Role.ASSISTANT] == ["Hello!"]


def test_compaction_when_it_holds_an_earlier_one_then_the_new_one_stands_for_both(
    openai: OpenAI, server: FakeModelServer
) -> None:
    compacted = compact(openai, server, input=[*TALK[:2], ITEM, TALK[-1]])
    assert [item.type for item in compacted.output].count("compaction") == 1
    assert any(SUMMARY in (text or "") for _, text in told(server))


@pytest.mark.parametrize(
    "script",
    [
        answer(f"<|channel|>final<|message|>{SUMMARY}", reason=FinishReason.LENGTH),
        answer("<|channel|>final<|message|> "),
    ],
    ids=["cut", "empty"],
)
def test_compaction_when_the_model_writes_no_whole_summary_then_the_conversation_is_not_replaced(
    openai: OpenAI,
    server: FakeModelServer,
    script: Any,  # noqa: ANN401
) -> None:
    server.script = script
    with pytest.raises(InternalServerError, match="no whole summary"):
        openai.responses.compact(model=MODEL, input=TALK)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({}, "input"),
        ({"input": TALK[:3]}, "input"),
        ({"input": "Hi", "stream": True}, "stream"),
        ({"input": "Hi", "image": {"context_compression": "enabled"}}, "image"),
    ],
    ids=["nothing", "no input", "a call without output", "an unknown field", "pictures"],
)
def test_compaction_when_there_is_nothing_to_sum_up_or_a_field_is_not_honoured_then_it_is_named(
    client: httpx.Client, fields: dict[str, Any], param: str
) -> None:
    answered = client.post(f"{RESPONSES}/compact", json={"model": MODEL, **fields})
    assert (answered.status_code, answered.json()["error"]["param"]) == (400, param)


def test_compaction_when_its_response_is_not_kept_then_that_is_said(openai: OpenAI, server: FakeModelServer) -> None:
    with pytest.raises(BadRequestError) as refused:
        compact(openai, server, previous_response_id="resp_none")
    assert refused.value.code == "previous_response_not_found"


# --- going on -------------------------------------------------------------------------------------------------------


def test_compaction_when_it_is_sent_as_input_then_the_model_is_told_its_summary_as_the_users(
    client: httpx.Client, openai: OpenAI, server: FakeModelServer
) -> None:
    output = dumped(compact(openai, server))
    answered = openai.responses.create(model=MODEL, input=[*output, {"role": "user", "content": "So?"}])
    assert answered.output_text == "Hello!"
    *others, (role, summary), last = told(server)
    assert (role, last) == (Role.USER, (Role.USER, "So?"))
    assert (summary or "").endswith(SUMMARY)
    assert [role for role, _ in others] == [Role.DEVELOPER, Role.USER, Role.USER]
    kept = listed(client, answered.id)["data"]
    assert [item["type"] for item in kept][1] == "compaction"


def test_compaction_when_it_comes_behind_a_call_that_was_answered_then_the_turn_is_whole_before_it(
    client: httpx.Client, server: FakeModelServer
) -> None:
    respond(client, [*TALK[:4], ITEM])
    assert [role for role, _ in told(server)] == [Role.DEVELOPER, Role.USER, Role.ASSISTANT, Role.TOOL, Role.USER]


@pytest.mark.parametrize("blob", ["gAAAAABo_from_elsewhere", "gptoss-compaction-1.%%%", carried_summary("x")[:-2]])
def test_compaction_when_another_server_made_it_or_it_was_damaged_then_the_refusal_says_what_to_send(
    openai: OpenAI, blob: str
) -> None:
    foreign: Any = {"type": "compaction", "encrypted_content": blob}
    with pytest.raises(BadRequestError, match="send the conversation that it stands for") as refused:
        openai.responses.create(model=MODEL, input=[foreign])
    assert refused.value.param == "input[0].encrypted_content"


@pytest.mark.parametrize("kind", [{}, {"type": None}, {"type": "item_reference"}])
def test_compaction_when_an_item_is_named_by_its_id_then_it_is_read(
    openai: OpenAI, client: httpx.Client, server: FakeModelServer, kind: dict[str, Any]
) -> None:
    words = respond(client)["output"][-1]
    *_, last = dumped(compact(openai, server, input=[{"role": "user", "content": "Hi"}, {"id": words["id"], **kind}]))
    assert last["type"] == "compaction"
    assert (Role.ASSISTANT, "Hello!") in told(server)


def test_compaction_when_it_is_an_item_of_a_conversation_then_it_is_kept_and_told_there(
    openai: OpenAI, server: FakeModelServer
) -> None:
    conversation = openai.conversations.create(items=[ITEM])
    [item] = openai.conversations.items.list(conversation.id).data
    assert base64.b64decode(item.encrypted_content.partition(".")[2]).decode() == SUMMARY  # type: ignore[union-attr]
    server.script = answer(CALL)
    openai.responses.create(model=MODEL, input="Hi", conversation=conversation.id, tools=[WEATHER])  # type: ignore[list-item]
    assert SUMMARY in (told(server)[0][1] or "")

"""From the messages of OpenAI's request to the contract's, and what the model is told of how to answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gptoss_adapter.errors import InvalidRequestError
from gptoss_backend.contract import CHAT_CODEC, ChatMessage, ChatRequest, FunctionTool, ReasoningEffort, Role, ToolCall
from support.chat_schemas import CLOCK, WEATHER, chat, message


def test_chat_when_every_role_speaks_then_each_is_mapped() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
    mapped = chat(
        messages=[
            {"role": "system", "content": "Be kind."},
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "reasoning": "Ask.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "name": "weather", "content": "Snow"},
        ],
        tools=[WEATHER],
    )
    assert mapped == ChatRequest(
        messages=(
            ChatMessage(Role.SYSTEM, "Be kind."),
            ChatMessage(Role.DEVELOPER, "Be brief."),
            ChatMessage(Role.USER, "Weather?"),
            ChatMessage(
                Role.ASSISTANT,
                None,
                reasoning="Ask.",
                tool_calls=(ToolCall("call_1", "weather", '{"city":"Oslo"}'),),
            ),
            ChatMessage(Role.TOOL, "Snow", tool_call_id="call_1"),
        ),
        date="2026-11-23",
        tools=(FunctionTool("weather", "Tells it", {"type": "object"}),),
        reasoning_effort=ReasoningEffort.HIGH,
    )


def test_chat_when_only_sampling_differs_then_the_document_is_the_same() -> None:
    plain = CHAT_CODEC.encode(chat())
    assert CHAT_CODEC.encode(chat(temperature=0, seed=4, max_tokens=9, stream=True, user="u")) == plain
    assert CHAT_CODEC.encode(chat(reasoning_effort="low")) != plain


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
def test_message_when_a_client_cut_its_text_in_parts_then_it_is_that_text(role: str) -> None:
    parts = [{"type": "text", "text": "one\n"}, {"type": "text", "text": "two "}, {"type": "text", "text": "three"}]
    assert message(role=role, content=parts) == message(role=role, content="one\ntwo three")


def test_result_when_it_has_several_parts_then_each_begins_a_line() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "image_url"}, {"type": "text", "text": "two"}]
    result = message(role="tool", tool_call_id="call_1", content=parts)
    assert result.content == "one\n[Here is a picture, which this model cannot see.]\ntwo"


def test_message_when_reasoning_comes_under_its_other_name_then_it_is_reasoning() -> None:
    assert message(role="assistant", content="", reasoning_content="Hm.").reasoning == "Hm."
    assert message(role="assistant", content="", reasoning="", reasoning_content="Hm.").reasoning == ""


def test_message_when_it_is_an_answer_of_ours_sent_back_then_it_is_taken() -> None:
    sent_back = message(role="assistant", content="Hi", refusal=None, reasoning="Hm.", annotations=[], audio=None)
    assert sent_back == ChatMessage(Role.ASSISTANT, "Hi", reasoning="Hm.")


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
def test_message_when_its_speaker_has_a_name_then_nobody_reads_it(role: str) -> None:
    assert message(role=role, content="Hi", name="planner") == message(role=role, content="Hi", name=None)


def test_message_when_other_libraries_send_an_answer_back_with_their_own_fields_then_nobody_reads_them() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    theirs = {"provider_specific_fields": {"refusal": None, "reasoning": "Hm."}}
    sent_back = message(
        role="assistant",
        content="Hi",
        refusal="",
        reasoning="Hm.",
        reasoning_details=[{"type": "reasoning.text", "text": "Hm."}],
        thinking_blocks=[{"type": "thinking", "thinking": "Hm.", "signature": "x"}],
        tool_calls=[{**call, "function": {**call["function"], **theirs}, **theirs}],  # type: ignore[dict-item]
        **theirs,
    )
    assert sent_back == message(role="assistant", content="Hi", reasoning="Hm.", tool_calls=[call])


def test_cache_control_when_said_of_text_or_a_tool_then_nobody_reads_it() -> None:
    hint = {"cache_control": {"type": "ephemeral"}}
    theirs = {"prompt_cache_breakpoint": {"mode": "explicit"}}
    parts = [{"type": "text", "text": "Hi"}]
    tools = [{**WEATHER, **hint}, {"type": "function", "function": {"name": "clock", **hint}}]
    marked = chat(messages=[{"role": "user", "content": [{**parts[0], **hint, **theirs}]}], tools=tools)
    assert marked == chat(messages=[{"role": "user", "content": parts}], tools=[WEATHER, CLOCK])


@pytest.mark.parametrize(
    "fields",
    [
        {"content": [{"type": "refusal", "refusal": "I cannot."}]},
        {"content": None, "refusal": "I cannot.", "annotations": [{"type": "url_citation"}]},
        {"content": "", "refusal": "I cannot."},
    ],
)
def test_message_when_it_is_a_refusal_then_that_is_what_the_assistant_said(fields: dict[str, object]) -> None:
    assert message(role="assistant", **fields) == ChatMessage(Role.ASSISTANT, "I cannot.")


def test_message_when_it_has_text_and_a_refusal_then_both_were_said() -> None:
    parts = [{"type": "text", "text": "Well."}, {"type": "refusal", "refusal": "I cannot."}]
    assert message(role="assistant", content=parts).content == "Well.I cannot."
    assert message(role="assistant", content="Well.", refusal="I cannot.").content == "Well.\nI cannot."


@pytest.mark.parametrize(("verbosity", "wish"), [("low", "Keep your answers brief."), ("high", "Answer in detail.")])
def test_verbosity_when_it_is_not_medium_then_it_is_a_line_behind_all_instructions(verbosity: str, wish: str) -> None:
    asked = chat(verbosity=verbosity)
    assert asked == replace(chat(), notes=(wish,))
    assert chat(verbosity="medium") == chat()


@pytest.mark.parametrize(
    ("asked", "effort"), [("minimal", "low"), ("low", "low"), ("medium", "medium"), ("xhigh", "high"), ("max", "high")]
)
def test_effort_when_it_is_beyond_what_there_is_then_it_is_the_nearest(asked: str, effort: str) -> None:
    assert chat(reasoning_effort=asked).reasoning_effort == effort
    assert chat(chat_template_kwargs={"reasoning_effort": asked}, reasoning_effort=effort).reasoning_effort == effort


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_effort": "none"},
        {"reasoning": {"effort": "none"}},
        {"reasoning": {"enabled": False}},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "none"},
    ],
)
def test_effort_when_it_is_none_in_any_words_then_that_is_the_chats(fields: dict[str, object]) -> None:
    assert chat(**fields).reasoning_effort is ReasoningEffort.NONE


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning": {"enabled": False}, "reasoning_effort": "low"}, "reasoning.enabled"),
        ({"reasoning": {"enabled": True}, "reasoning_effort": "none"}, "reasoning.enabled"),
        ({"reasoning": {"enabled": True, "effort": "none"}}, "reasoning.enabled"),
        (
            {"chat_template_kwargs": {"enable_thinking": True}, "reasoning": {"enabled": False}},
            "chat_template_kwargs.enable_thinking",
        ),
    ],
)
def test_effort_when_whether_there_is_any_is_at_odds_then_400_names_it(fields: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        chat(**fields)
    assert refused.value.param == param


def test_effort_when_it_is_said_in_openrouters_words_then_it_is_as_good_as_the_field() -> None:
    assert chat(reasoning={"effort": "low"}) == chat(reasoning_effort="low")
    with pytest.raises(InvalidRequestError, match="differ") as refused:
        chat(reasoning={"effort": "low"}, reasoning_effort="low", chat_template_kwargs={"reasoning_effort": "high"})
    assert refused.value.param == "chat_template_kwargs.reasoning_effort"
    with pytest.raises(InvalidRequestError, match="differ") as refused:
        chat(reasoning={"effort": "low"}, reasoning_effort="high")
    assert refused.value.param == "reasoning.effort"


def test_effort_when_the_template_is_told_then_it_is_as_good_as_the_field() -> None:
    told = {"reasoning_effort": "low"}
    assert chat(chat_template_kwargs=told) == chat(reasoning_effort="low")
    assert chat(chat_template_kwargs=told, reasoning_effort="low") == chat(reasoning_effort="low")
    assert chat(chat_template_kwargs={}) == chat()
    with pytest.raises(InvalidRequestError, match="'reasoning_effort' \\(high\\) differ") as refused:
        chat(chat_template_kwargs=told, reasoning_effort="high")
    assert refused.value.param == "chat_template_kwargs.reasoning_effort"

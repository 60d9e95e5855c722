"""An answer that was begun and goes on: how it stands in the prompt, is read, and is held to a form."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest

from gptoss_backend.contract import (
    ChatMessage,
    ChatRequest,
    FunctionTool,
    OutputStructure,
    ReasoningEffort,
    ResponseFormat,
    Role,
    TextForm,
    TextFormKind,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
)
from gptoss_backend.harmony.begun import begun_in
from gptoss_backend.harmony.channels import ChannelSplitter
from gptoss_backend.harmony.deltas import ContentDelta, ReasoningDelta
from gptoss_backend.harmony.errors import PromptError
from gptoss_backend.harmony.prompt import render_prompt
from gptoss_backend.harmony.structure import output_structure
from gptoss_backend.harmony.vocabulary import END, MESSAGE, RETURN, encoding
from gptoss_backend.structure.answer import mask_of
from gptoss_backend.structure.schemas import StructureError
from support.answer_masks import allowed, may_end, tokens
from support.structures import JSON_ANSWER, MUST_CALL, PERSON

OPEN_TEXT = "<|channel|>final<|message|>"
OPEN_REASONING = "<|channel|>analysis<|message|>"
NOW = FunctionTool("now")
CALL = ToolCall("call_1", "now", "{}")


def begun(content: str | None = None, reasoning: str | None = None) -> ChatMessage:
    return ChatMessage(Role.ASSISTANT, content, reasoning)


def chat(*messages: ChatMessage, continues_last: bool = True, choice: ToolChoiceMode | None = None) -> ChatRequest:
    told = (ChatMessage(Role.USER, "Hi"), *messages)
    if choice is None:
        return ChatRequest(told, continues_last)
    return ChatRequest(told, continues_last, tools=(NOW,), tool_choice=ToolChoice(choice))


def behind_the_question(request: ChatRequest) -> str:
    text: str = encoding().decode(render_prompt(request))
    return text.partition("<|start|>user<|message|>Hi<|end|>")[2]


# --- the prompt -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "rendered"),
    [
        (begun("It is "), f"<|start|>assistant{OPEN_TEXT}It is "),
        (begun("It", "Easy."), f"<|start|>assistant{OPEN_REASONING}Easy.<|end|><|start|>assistant{OPEN_TEXT}It"),
        (begun(None, "Hm, "), f"<|start|>assistant{OPEN_REASONING}Hm, "),
        (begun("", "Hm, "), f"<|start|>assistant{OPEN_REASONING}Hm, "),
        (begun(""), f"<|start|>assistant{OPEN_TEXT}"),
    ],
    ids=["text", "text behind reasoning", "reasoning", "reasoning and no text yet", "nothing but the channel"],
)
def test_prompt_when_the_last_message_goes_on_then_it_has_no_end(message: ChatMessage, rendered: str) -> None:
    assert behind_the_question(chat(message)) == rendered


def test_prompt_when_an_answer_goes_on_after_a_call_then_the_reasoning_before_the_call_is_still_told() -> None:
    called = ChatMessage(Role.ASSISTANT, reasoning="Ask the clock.", tool_calls=(CALL,))
    result = ChatMessage(Role.TOOL, "Noon.", tool_call_id="call_1")
    told = behind_the_question(chat(called, result, begun("It is")))
    assert "Ask the clock." in told
    assert told.endswith(f"Noon.<|end|><|start|>assistant{OPEN_TEXT}It is")


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (begun(), "messages[1]: a message without content or reasoning cannot be continued."),
        (
            ChatMessage(Role.USER, "No"),
            "messages[1]: only an assistant message can be continued, not",
        ),
        (ChatMessage(Role.ASSISTANT, "I look", tool_calls=(CALL,)), "messages[1]: a message that calls tools"),
    ],
    ids=["empty", "the user's", "a call"],
)
def test_prompt_when_the_last_message_cannot_go_on_then_it_is_refused_by_its_place(
    message: ChatMessage, sentence: str
) -> None:
    with pytest.raises(PromptError) as refused:
        render_prompt(chat(message))
    assert str(refused.value).startswith(sentence)


def test_prompt_when_a_call_is_required_then_reasoning_goes_on_but_no_text_does() -> None:
    assert output_structure(chat(begun(None, "Hm"), choice=ToolChoiceMode.REQUIRED)) is not None
    for message in (begun("It is"), begun("")):
        with pytest.raises(PromptError, match=r"^tool_choice: "):
            output_structure(chat(message, choice=ToolChoiceMode.REQUIRED))
        assert output_structure(chat(message, choice=ToolChoiceMode.AUTO)) is not None


def test_prompt_when_there_may_be_no_reasoning_then_text_goes_on_but_no_reasoning_does() -> None:
    at_once = replace(chat(begun("It is")), reasoning_effort=ReasoningEffort.NONE)
    structure = output_structure(at_once)
    assert structure is not None
    written_on(structure, begun("It is"), " so<|return|>")
    with pytest.raises(PromptError, match=r"^messages\[1\]: "):
        output_structure(replace(at_once, messages=(*at_once.messages[:-1], begun(None, "Hm"))))


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (chat(begun("a<|start|>b")), f"{OPEN_TEXT}a<|start|>b"),
        (chat(begun("It", "Easy.")), f"{OPEN_TEXT}It"),
        (chat(begun("It"), continues_last=False), ""),
        (chat(continues_last=False), ""),
    ],
    ids=["a marker in the text", "the last of two messages", "a message that ended", "a question"],
)
def test_beginning_when_a_prompt_is_looked_at_then_it_is_what_of_the_answer_stands_there(
    request_: ChatRequest, expected: str
) -> None:
    assert encoding().decode(list(begun_in(array("i", render_prompt(request_))))) == expected


@pytest.mark.parametrize(
    "prompt", ["", "Once", "<|start|>user<|message|>Hi<|end|>", f"<|start|>assistant{OPEN_TEXT}It is noon.<|end|>"]
)
def test_beginning_when_a_prompt_is_no_chats_or_its_answer_has_ended_then_there_is_none(prompt: str) -> None:
    assert begun_in(tokens(prompt)) == []


def test_beginning_when_a_raw_prompt_leaves_a_header_open_then_the_mask_goes_on_there_or_refuses_it() -> None:
    mask = mask_of(JSON_ANSWER, tokens("<|start|>assistant<|channel|>final"))
    may_come = allowed(mask)
    assert may_come is not None
    assert may_come[MESSAGE]
    with pytest.raises(StructureError, match=r"^messages: "):
        mask_of(MUST_CALL, tokens(f"<|start|>assistant{OPEN_TEXT}It is"))


# --- the answer -----------------------------------------------------------------------------------------------------


def test_answer_when_its_text_was_begun_then_only_what_is_new_is_told() -> None:
    splitter = ChannelSplitter()
    splitter.begin_with(tokens(f"{OPEN_TEXT}It is"))
    assert splitter.push(tokens(" noon.<|return|>")) == [ContentDelta(" noon.")]
    assert splitter.reasoning_tokens == 0


def test_answer_when_its_reasoning_was_begun_then_its_new_tokens_count_and_text_follows() -> None:
    splitter = ChannelSplitter()
    splitter.begin_with(tokens(f"{OPEN_REASONING}A long thought so far,"))
    assert splitter.push(tokens(" done.<|end|>")) == [ReasoningDelta(" done.")]
    assert splitter.reasoning_tokens == len(tokens(" done.<|end|>"))
    more = splitter.push(tokens(f"<|start|>assistant{OPEN_REASONING}More.<|end|><|start|>assistant{OPEN_TEXT}It"))
    assert more == [ReasoningDelta("\n\nMore."), ContentDelta("It")]


# --- what it is held to ---------------------------------------------------------------------------------------------


def written_on(structure: OutputStructure, message: ChatMessage, text: str) -> set[int]:
    """Let the answer go on by text, each token of which has to be allowed, and return what may end it then."""
    mask = mask_of(structure, array("i", render_prompt(chat(message))))
    for token in tokens(text):
        may_come = allowed(mask)
        assert may_come is None or may_come[token], f"{encoding().decode([token])!r} may not come"
        mask.accept(token)
    return may_end(mask)


def test_json_when_it_was_begun_then_it_is_held_from_its_own_beginning() -> None:
    rest = 'ile","age":62,"kind":"a"}'
    assert written_on(JSON_ANSWER, begun('{"name":"Ém'), rest) == {RETURN, END}
    with pytest.raises(AssertionError, match="may not come"):
        written_on(JSON_ANSWER, begun('{"name":"Ém'), 'ile","size":3}')


def test_json_when_it_was_whole_then_the_answer_can_only_end() -> None:
    assert written_on(JSON_ANSWER, begun('{"name":"É","age":6,"kind":"a"}'), "") == {RETURN, END}


def test_json_when_only_the_reasoning_was_begun_then_that_is_free_and_what_follows_is_held() -> None:
    told = f" is the age.<|end|><|start|>assistant{OPEN_TEXT}" + '{"name":"É","age":6,"kind":"a"}'
    assert written_on(JSON_ANSWER, begun(None, "62"), told) == {RETURN, END}


def test_form_when_a_choice_was_begun_then_only_those_that_go_on_so_may_come() -> None:
    structure = OutputStructure(form=TextForm(TextFormKind.CHOICE, ("yes, sir", "yes, ma'am", "no")))
    assert written_on(structure, begun("yes,"), " sir") == {RETURN, END}
    with pytest.raises(AssertionError, match="may not come"):
        written_on(structure, begun("yes,"), "no")


@pytest.mark.parametrize("text", ["Here it is: {", '{"size":', '{"name":"É","age":6,"kind":"a"} '])
def test_json_when_it_was_begun_as_it_cannot_be_then_the_message_is_named_and_the_grammar_serves_on(text: str) -> None:
    with pytest.raises(StructureError, match=r"^messages: the last one"):
        written_on(OutputStructure(ResponseFormat(PERSON)), begun(text), "")
    assert written_on(JSON_ANSWER, begun("{"), '"name":"É","age":6,"kind":"a"}') == {RETURN, END}


def test_call_when_it_is_required_and_the_reasoning_was_begun_then_it_follows() -> None:
    call = "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}"
    ends = written_on(MUST_CALL, begun(None, "Ask"), f" the clock.<|end|><|start|>assistant{call}")
    assert RETURN not in ends
    mask = mask_of(MUST_CALL, render_prompt(chat(begun(None, "Ask"))))
    may_come = allowed(mask)
    assert may_come is not None
    assert may_come[END]
    assert not may_come[MESSAGE]

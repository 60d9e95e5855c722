"""Token ids → reasoning, content and tool calls: well-formed turns and known faults."""

from __future__ import annotations

import pytest

from gptoss_backend.contract import CallSyntax, FunctionTool, Phase
from gptoss_backend.harmony.channels import ChannelSplitter
from gptoss_backend.harmony.deltas import ContentDelta, ReasoningDelta, ToolCallDelta
from gptoss_backend.harmony.header import MAX_HEADER_BYTES, MAX_STRAY_BYTES
from gptoss_backend.harmony.vocabulary import CALL, END, MESSAGE, token_bytes
from support.channels import Answer, parse, split, tokens

# --- well-formed turns ----------------------------------------------------------------------------------------------


def test_turn_when_well_formed_then_reasoning_and_content_are_split_and_counted() -> None:
    reasoning = "<|channel|>analysis<|message|>Add 🧑\u200d🚀.<|end|>"
    result = split(tokens(reasoning + "<|start|>assistant<|channel|>final<|message|>4 é<|return|>"))
    assert result.answer == Answer("Add 🧑\u200d🚀.", "4 é", [])
    assert result.reasoning_tokens == len(tokens(reasoning))


@pytest.mark.parametrize(
    "header",
    [
        "<|channel|>commentary to=functions.f <|constrain|>json",
        "<|channel|>commentary to=functions.f<|constrain|>json",
        "<|channel|>commentary to=functions.f json",
        "<|channel|>commentary to=functions.f",
        " to=functions.f<|channel|>commentary <|constrain|>json",
        " to=functions.f<|channel|>commentary json",
        " to=functions.f",
        "<|channel|>analysis to=functions.f code",
        "<|channel|>final to=functions.f",
        "<|start|>assistant to=functions.f<|channel|>commentary",
        "<|channel|>commentary to=functions.f to=functions.f",
        "<|channel|>commentary to=functions.fto=functions.f",
        " to=functions.f<|channel|>commentary to=functions.f <|constrain|>json",
        "<|channel|>commentary to=functions.f<|channel|>commentary to=functions.f",
        "<|channel|>commentary to=functions.f<|channel|>analysis",
        "<|channel|>commentary functions.f",
        "<|channel|>commentary to= functions.f",
        "<|channel|>commentary to=assistant to=functions.f",
        "<|channel|>commentary <|constrain|>json to=functions.f",
        "<|reserved_200000|><|channel|>commentary to=functions.f",
    ],
)
def test_header_when_it_names_a_function_anywhere_then_the_message_is_a_call(header: str) -> None:
    assert parse(f'{header}<|message|>{{"a": 1}}<|call|>') == Answer(calls=[("f", '{"a": 1}')])


@pytest.mark.parametrize("name", ["get_weather", "repo.search-v2", "__a.b-c", "x" * 128, "to", "json"])
def test_call_when_the_name_is_unusual_then_it_survives(name: str) -> None:
    assert parse(f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{{}}<|call|>").calls == [
        (name, "{}")
    ]


def test_preamble_when_a_call_follows_then_it_is_content() -> None:
    text = (
        "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>"
    )
    assert parse(text) == Answer("Look.", "I look.", [("f", "{}")])


@pytest.mark.parametrize(
    ("header", "phase"),
    [
        ("<|channel|>commentary", "commentary"),
        ("<|channel|>commentary to=user", "commentary"),
        ("<|channel|>final", "final_answer"),
        ("<|channel|>unknown", "final_answer"),
        ("<|start|>assistant", "final_answer"),
    ],
)
def test_content_when_its_channel_is_read_then_it_says_whether_it_is_the_answer(header: str, phase: Phase) -> None:
    assert ChannelSplitter().push(tokens(f"{header}<|message|>Hm")) == [ContentDelta("Hm", phase=phase)]


def test_preamble_when_the_answer_follows_at_once_then_the_two_are_deltas_of_their_own() -> None:
    preamble = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
    deltas = ChannelSplitter().push(tokens(f"{preamble}<|channel|>final<|message|>Done."))
    assert deltas == [ContentDelta("I look.", phase="commentary"), ContentDelta("\n\nDone.", phase="final_answer")]


def test_calls_when_several_come_in_one_answer_then_each_has_its_index() -> None:
    call = '<|channel|>commentary to=functions.{0} <|constrain|>json<|message|>{{"{0}": 1}}<|end|><|start|>assistant'
    assert parse(call.format("f") + call.format("g")).calls == [("f", '{"f": 1}'), ("g", '{"g": 1}')]


def test_call_when_streamed_then_the_name_comes_with_its_header_and_arguments_follow() -> None:
    splitter = ChannelSplitter()
    assert splitter.push(tokens("<|channel|>commentary to=functions.f <|constrain|>json")) == []
    assert splitter.push([MESSAGE]) == [ToolCallDelta(0, "f", "")]
    assert splitter.push(tokens('{"a"')) == [ToolCallDelta(0, None, '{"a"')]
    assert splitter.push([*tokens(": 1}"), CALL]) == [ToolCallDelta(0, None, ": 1}")]
    assert splitter.finish() == []


def test_messages_when_two_go_to_one_place_then_an_empty_line_is_between() -> None:
    final = "<|channel|>final<|message|>{}<|end|><|start|>assistant"
    assert parse(final.format("One.") + final.format("") + final.format("Two.")).content == "One.\n\nTwo."


# --- built-in tools -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        "<|channel|>analysis to=python code",
        "<|channel|>commentary to=python code",
        "<|channel|>analysis to=python <|constrain|>code",
        " to=python<|channel|>analysis code",
        " to=python<|channel|>analysis",
    ],
)
def test_call_of_python_when_it_is_offered_then_its_code_comes_as_it_is(header: str) -> None:
    code = 'print("1")\n\nprint(2)'
    assert parse(f"{header}<|message|>{code}<|call|>", builtins=("python",)) == Answer("", "", [("python", code)])


def test_call_of_python_when_it_holds_nothing_then_there_is_no_code() -> None:
    called = parse("<|channel|>analysis to=python code<|message|><|call|>", builtins=("python",))
    assert called.calls == [("python", "")]


def test_call_when_a_function_and_a_builtin_share_a_name_then_the_namespace_decides() -> None:
    calls = [("functions.python", False, CallSyntax.JSON), ("python", True, CallSyntax.PLAIN)]
    for recipient, is_builtin, syntax in calls:
        splitter = ChannelSplitter([FunctionTool("python")], ["python"])
        [delta] = splitter.push(tokens(f"<|channel|>analysis to={recipient} code<|message|>1"))
        assert delta == ToolCallDelta(0, "python", "1", is_builtin, syntax=syntax)


def test_call_of_a_builtin_when_it_is_not_offered_then_it_is_refused_reasoning() -> None:
    splitter = ChannelSplitter((), ("browser.search",))
    assert splitter.push(tokens("<|channel|>analysis to=python code<|message|>1<|call|>")) == [ReasoningDelta("1")]
    assert splitter.refused_call == "python"


# --- known faults ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        # no header
        ("Hello there", Answer("", "Hello there")),
        ("\n\nHello", Answer("", "\n\nHello")),
        ("assistants help", Answer("", "assistants help")),
        ("to=whom it may concern", Answer("", "to=whom it may concern")),
        ("<|message|>Hello", Answer("", "Hello")),
        ("<|start|>assistant<|message|>Hello", Answer("", "Hello")),
        ("<|channel|><|message|>Hello", Answer("", "Hello")),
        # unknown words in a header
        ("<|channel|>commentry<|message|>Hello", Answer("", "Hello")),
        ("<|channel|>analysis about it<|message|>Hm", Answer("Hm", "")),
        ("<|channel|>commentary to=user<|message|>Hm", Answer("", "Hm")),
        # tools that nobody offered, and others' messages
        ("<|channel|>commentary to=browser.search<|message|>Hm", Answer("Hm", "")),
        ("<|channel|>final to=python code<|message|>1+1<|call|>", Answer("1+1", "")),
        (" to=python<|channel|>analysis code<|message|>1+1<|call|>", Answer("1+1", "")),
        ("<|start|>user<|message|>More?<|end|><|start|>assistant<|channel|>final<|message|>So", Answer("More?", "So")),
        ("<|channel|>final<|message|>So<|end|><|start|>system<|message|>Be kind.", Answer("Be kind.", "So")),
        ("<|start|>developer<|channel|>final<|message|>Rules", Answer("Rules", "")),
        ("<|start|>functions.f to=assistant<|channel|>commentary<|message|>42", Answer("42", "")),
        ("<|start|>browser.search to=assistant<|channel|>commentary<|message|>42", Answer("42", "")),
        ("<|start|>assistant to=assistant<|channel|>commentary<|message|>I look.", Answer("", "I look.")),
        ("<|start|>users know<|message|> it", Answer("", " it")),
        # missing <|end|>, <|start|>, role
        ("<|channel|>analysis<|message|>Hm<|start|>assistant<|channel|>final<|message|>So", Answer("Hm", "So")),
        ("<|channel|>analysis<|message|>Hm<|channel|>final<|message|>So", Answer("Hm", "So")),
        ("<|channel|>analysis<|message|>Hm<|end|>assistant<|channel|>final<|message|>So", Answer("Hm", "So")),
        ("<|channel|>analysis<|message|>Hm<|end|><|channel|>final<|message|>So", Answer("Hm", "So")),
        # text after <|end|>
        ("<|channel|>analysis<|message|>Hm<|end|>So it is", Answer("Hm", "So it is")),
        ("<|channel|>final<|message|>So<|end|> it is<|end|>", Answer("", "So\n\n it is")),
        # missing <|message|>
        ("<|channel|>final Hello there<|return|>", Answer("", "Hello there")),
        (
            "<|channel|>analysis Hm, well<|end|><|start|>assistant<|channel|>final<|message|>So",
            Answer("Hm, well", "So"),
        ),
        ("<|channel|>analysis Hm, well<|channel|>final<|message|>So", Answer("Hm, well", "So")),
        ("<|start|>Hello there<|end|>", Answer("", "Hello there")),
        ('<|channel|>commentary to=functions.f <|constrain|>json{"a": 1}<|call|>', Answer(calls=[("f", '{"a": 1}')])),
        (' to=functions.f {"a": 1}<|call|>', Answer(calls=[("f", '{"a": 1}')])),
        # calls without arguments
        ("<|channel|>commentary to=functions.f<|message|><|call|>", Answer(calls=[("f", "{}")])),
        ("<|channel|>commentary to=functions.f <|constrain|>json<|call|>", Answer(calls=[("f", "{}")])),
        # a stutter is no call
        (
            "<|start|>assistant to=functions.f<|start|>assistant"
            "<|channel|>commentary to=functions.f<|message|>{}<|call|>",
            Answer(calls=[("f", "{}")]),
        ),
        # cut by max_tokens
        ("", Answer()),
        ("<|channel|>comment", Answer()),
        ("<|channel|>commentary to=functions.get_wea", Answer()),
        ("<|channel|>commentary to=functions.f<|message|>", Answer(calls=[("f", "")])),
        ('<|channel|>commentary to=functions.f<|message|>{"a', Answer(calls=[("f", '{"a')])),
        # other special tokens in a text
        (
            "<|channel|>final<|message|>a<|reserved_200001|>b<|message|>c<|constrain|>d<|startoftext|>e",
            Answer("", "abcde"),
        ),
        ("<|end|><|end|><|message|><|end|>x", Answer("", "x")),
    ],
)
def test_turn_when_malformed_then_the_text_goes_where_it_was_meant(text: str, answer: Answer) -> None:
    assert parse(text) == answer


def test_call_when_the_namespace_is_missing_then_a_known_function_is_called_and_another_is_reasoning() -> None:
    text = "<|channel|>commentary to={} <|constrain|>json<|message|>{{}}<|call|>"
    assert parse(text.format("f"), tools=("f",)) == Answer(calls=[("f", "{}")])
    assert parse(text.format("g"), tools=("f",)) == Answer("{}", "")
    assert parse(text.format("functions.g"), tools=("f",)) == Answer(calls=[("g", "{}")])


@pytest.mark.parametrize("tools", [(), ("f",)])
@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>', Answer('{"a": 1}', "")),
        ("<|channel|>analysis to=functions.f code<|message|>Hm<|call|>", Answer("Hm", "")),
        (" to=f<|channel|>final<|message|>So<|return|>", Answer("So", "")),
        ("<|channel|>final to=user<|message|>So<|return|>", Answer("", "So")),
        ("<|channel|>commentary to=functions.f<|call|>", Answer()),
        ("<|channel|>commentary<|message|>I look.<|end|>", Answer("", "I look.")),
    ],
)
def test_call_when_none_is_allowed_then_its_text_is_nothing_that_the_user_was_told(
    text: str, answer: Answer, tools: tuple[str, ...]
) -> None:
    assert split(tokens(text), tools=tools, allows_calls=False).answer == answer


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("<|channel|>analysis to=python code<|message|>1+1<|call|>", "python"),
        ("<|channel|>commentary to=browser.search<|call|>", "browser.search"),
        ("<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>", "functions.f"),
        ("<|channel|>analysis to=python code<|message|>1+1<|end|>", None),
        ("<|channel|>analysis to=python code<|message|>1+1", None),
        ("<|channel|>analysis to=python<|message|>1<|call|><|channel|>final<|message|>2<|return|>", None),
        ("<|channel|>final<|message|>So<|call|>", None),
    ],
)
def test_call_when_its_tool_was_not_offered_then_it_is_named(text: str, refused: str | None) -> None:
    for size in (1, 100):
        splitter, ids = ChannelSplitter(allows_calls=False), tokens(text)
        for at in range(0, len(ids), size):
            splitter.push(ids[at : at + size])
        assert splitter.refused_call == refused


def test_call_when_a_function_is_itself_named_with_the_namespace_then_its_name_is_whole() -> None:
    text = "<|channel|>commentary to=functions.f<|message|>{}<|call|>"
    assert parse(text, tools=("functions.f",)).calls == [("functions.f", "{}")]


@pytest.mark.parametrize(
    ("text", "is_cut"),
    [
        ('<|channel|>commentary to=functions.f<|message|>{"a": 1}<|call|>', False),
        ('<|channel|>commentary to=functions.f<|message|>{"a": 1}<|end|>', False),
        ('<|channel|>commentary to=functions.f<|message|>{"a": 1}<|endoftext|>', False),
        ('<|channel|>commentary to=functions.f<|message|>{"a"', True),
        ("<|channel|>commentary to=functions.f<|message|>", True),
        ("<|channel|>commentary to=functions.f<|message|>{}<|start|>assistant<|channel|>final<|message|>So", False),
        (
            "<|channel|>commentary to=functions.f<|message|>{}<|call|><|start|>assistant to=functions.g<|message|>{",
            True,
        ),
        ("<|channel|>commentary to=functions.f", False),
    ],
)
def test_call_when_the_answer_breaks_off_inside_it_then_it_is_known_to_be_cut(text: str, is_cut: bool) -> None:
    splitter = ChannelSplitter()
    splitter.push(tokens(text))
    splitter.finish()
    assert splitter.has_cut_call is is_cut


def test_text_when_endoftext_comes_then_it_ends_as_with_any_end() -> None:
    assert parse("<|channel|>final<|message|>So.<|endoftext|>") == Answer("", "So.", [])


def test_character_when_cut_at_a_messages_end_then_it_is_replaced_and_the_next_message_is_whole() -> None:
    ids = [*tokens("<|channel|>final<|message|>"), *tokens("🧑")[:-1], END, *tokens("é")]
    assert split(ids).answer.content == "\ufffd\n\né"


@pytest.mark.parametrize(
    "start", ["", "<|channel|>", "<|start|>", "<|channel|>analysis", "<|channel|>final <|constrain|>"]
)
def test_text_when_a_header_never_ends_then_it_streams_and_none_is_lost(start: str) -> None:
    text = "Once upon a time there was a header without an end. " * 20
    splitter, answer, sent = ChannelSplitter(), Answer(), 0
    answer.add(splitter.push(tokens(start)))
    for token in tokens(text):
        sent += len(token_bytes(token))
        answer.add(splitter.push([token]))
        assert sent - len(answer.content + answer.reasoning) <= MAX_STRAY_BYTES + len("Once ")
    answer.add(splitter.finish())
    assert (answer.content + answer.reasoning).endswith(text)


@pytest.mark.parametrize("words", [" to=a", " ", " json", " to=functions.f"])
def test_header_when_it_is_all_words_and_never_ends_then_it_is_shown(words: str) -> None:
    splitter, answer = ChannelSplitter(), Answer()
    answer.add(splitter.push(tokens("<|channel|>analysis")))
    for _ in range(MAX_HEADER_BYTES):
        answer.add(splitter.push(tokens(words)))
    assert len(answer.content + answer.reasoning) > MAX_HEADER_BYTES * (len(words) - 1)

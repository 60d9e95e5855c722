"""Token ids → reasoning, content and tool calls: well-formed turns, known faults, and anything at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_backend.contract import CallSyntax, FunctionTool, Phase
from gptoss_backend.harmony.channels import ChannelSplitter
from gptoss_backend.harmony.deltas import ContentDelta, Delta, ReasoningDelta, ToolCallDelta, joined
from gptoss_backend.harmony.header import MAX_HEADER_BYTES, MAX_STRAY_BYTES
from gptoss_backend.harmony.vocabulary import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    ENDOFTEXT,
    FIRST_SPECIAL,
    MESSAGE,
    NUM_TOKENS,
    RETURN,
    START,
    TextDecoder,
    encoding,
    token_bytes,
)


def tokens(text: str) -> list[int]:
    """Tokenise a turn as a model writes it: markers become special tokens."""
    ids: list[int] = encoding().encode(text, allowed_special="all")
    return ids


@dataclass
class Answer:
    """Deltas put together, as a client does."""

    reasoning: str = ""
    content: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)

    def add(self, deltas: list[Delta]) -> None:
        """Check each delta and take it in."""
        for delta in deltas:
            match delta:
                case ReasoningDelta(text):
                    assert text
                    self.reasoning += text
                case ContentDelta(text):
                    assert text
                    self.content += text
                case ToolCallDelta(index, str(name), arguments):
                    assert index == len(self.calls)
                    self.calls.append((name, arguments))
                case ToolCallDelta(index, None, arguments):
                    assert arguments
                    assert index == len(self.calls) - 1
                    self.calls[-1] = (self.calls[-1][0], self.calls[-1][1] + arguments)
        for first, second in pairwise(deltas):
            assert joined(first, second) is None, "adjacent deltas are joined"


@dataclass
class Split:
    """A whole answer and its counts."""

    answer: Answer
    reasoning_tokens: int


def split(
    ids: list[int],
    *,
    size: int | None = None,
    tools: tuple[str, ...] = (),
    builtins: tuple[str, ...] = (),
    allows_calls: bool = True,
) -> Split:
    """Split ids, `size` at a time; None: all at once."""
    splitter, answer = ChannelSplitter(map(FunctionTool, tools), builtins, allows_calls=allows_calls), Answer()
    for at in range(0, len(ids), size or max(1, len(ids))):
        answer.add(splitter.push(ids[at : at + size] if size else ids))
    answer.add(splitter.finish())
    assert splitter.num_tool_calls == len(answer.calls)
    assert 0 <= splitter.reasoning_tokens <= len(ids)
    return Split(answer, splitter.reasoning_tokens)


def parse(text: str, tools: tuple[str, ...] = (), builtins: tuple[str, ...] = ()) -> Answer:
    """Split a turn whole and token by token."""
    whole = split(tokens(text), tools=tools, builtins=builtins)
    assert split(tokens(text), size=1, tools=tools, builtins=builtins) == whole
    return whole.answer


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


# --- anything at all ------------------------------------------------------------------------------------------------

WORDS = [
    token for word in (" the", " 🙂", "é", "\n", "{", '"}', " json", "assistant", "to", "=") for token in tokens(word)
]
HEADER_WORDS = [
    token
    for word in ("analysis", "commentary", "final", " to=functions.f", "functions", ".", " to=", "user")
    for token in tokens(word)
]
PARTS_OF_CHARACTERS = tokens("🧑\u200d🚀 नमस्ते 你好")
STRUCTURE = [START, END, MESSAGE, CHANNEL, CONSTRAIN, RETURN, CALL, ENDOFTEXT, 200_000, 201_088]
TURNS = [
    tokens(text)
    for text in (
        "<|channel|>analysis<|message|>Let me see 🧑\u200d🚀.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>So é.<|return|>",
        "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        '<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": "ü"}<|call|>',
        ' to=functions.get_x<|channel|>commentary json<|message|>{"b": [1, 2]}<|call|>'
        "<|start|>functions.get_x to=assistant<|channel|>commentary<|message|>42<|end|>"
        "<|start|>assistant<|channel|>final<|message|>42.<|return|>",
    )
]

any_token = st.one_of(
    st.sampled_from(STRUCTURE),
    st.sampled_from(HEADER_WORDS),
    st.sampled_from(WORDS + PARTS_OF_CHARACTERS),
    st.integers(min_value=-2, max_value=NUM_TOKENS + 2),
)


@st.composite
def mutated_turns(draw: st.DrawFn) -> list[int]:
    """A real turn with tokens dropped, doubled, swapped or replaced."""
    ids = list(draw(st.sampled_from(TURNS)))
    for _ in range(draw(st.integers(min_value=0, max_value=6))):
        at = draw(st.integers(min_value=0, max_value=len(ids) - 1)) if ids else 0
        put = draw(st.sampled_from(["drop", "double", "insert", "replace"]))
        token = draw(any_token)
        ids[at : at + 1] = {"drop": [], "double": ids[at : at + 1] * 2, "insert": [token, *ids[at : at + 1]]}.get(
            put, [token]
        )
    return ids


any_answer = st.one_of(st.lists(any_token, max_size=80), mutated_turns())


@settings(max_examples=1000, deadline=None)
@given(any_answer, st.lists(st.integers(min_value=0, max_value=12), max_size=40))
def test_answer_when_split_in_any_chunks_then_it_is_that_of_the_whole(ids: list[int], sizes: list[int]) -> None:
    whole = split(ids)
    assert split(ids, size=1) == whole
    splitter, answer, at = ChannelSplitter(), Answer(), 0
    for size in [*sizes, len(ids)]:
        answer.add(splitter.push(ids[at : at + size]))
        at += size
    answer.add(splitter.finish())
    assert Split(answer, splitter.reasoning_tokens) == whole


@settings(max_examples=500, deadline=None)
@given(any_answer)
def test_answer_when_calls_are_not_allowed_then_there_is_none_and_no_text_is_lost(ids: list[int]) -> None:
    answer = split(ids, tools=("f",), allows_calls=False).answer
    assert answer.calls == []
    assert split(ids, size=1, tools=("f",), allows_calls=False).answer == answer
    for text in texts_of_messages(ids, errors="ignore"):
        assert any(text in place.replace("\ufffd", "") for place in (answer.reasoning, answer.content))


@settings(max_examples=500, deadline=None)
@given(st.lists(st.integers(min_value=0, max_value=NUM_TOKENS - 1200), max_size=40))
def test_text_when_there_is_no_special_token_then_all_of_it_is_content(ids: list[int]) -> None:
    decoder = TextDecoder()
    assert split(ids).answer == Answer("", decoder.push(ids) + decoder.finish())


def texts_of_messages(ids: list[int], errors: str = "strict") -> Iterator[str]:
    """What follows each <|message|> up to the next message: text beyond doubt, wherever it belongs."""
    text: list[int] | None = None
    for token in [*ids, END]:
        if token in (START, CHANNEL, END, RETURN, CALL, ENDOFTEXT):
            yield b"".join(map(token_bytes, text or [])).decode(errors=errors)
            text = None
        elif token == MESSAGE:
            text = text or []
        elif text is not None and token < FIRST_SPECIAL:
            text.append(token)


whole_characters = st.sampled_from([*STRUCTURE, *WORDS, *HEADER_WORDS])


@settings(max_examples=1000, deadline=None)
@given(st.lists(whole_characters, max_size=80))
def test_text_of_a_message_when_anything_surrounds_it_then_it_is_shown(ids: list[int]) -> None:
    answer = split(ids).answer
    shown = [answer.reasoning, answer.content, *(arguments for _, arguments in answer.calls)]
    for text in texts_of_messages(ids):
        assert any(text in place for place in shown)

"""Token ids → reasoning, content and tool calls: what holds of any tokens at all."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_backend.harmony.channels import ChannelSplitter
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
    token_bytes,
)
from support.channels import Answer, Split, split, tokens

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

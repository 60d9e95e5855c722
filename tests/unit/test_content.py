"""What of the content goes out, when, and with which log probabilities."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_adapter.content import ContentGate, ContentToken, ScoredContent
from gptoss_adapter.logprobs import chat_logprobs, text_logprobs
from gptoss_backend.contract import Alternative, TokenLogprob
from gptoss_backend.harmony.deltas import ContentDelta
from gptoss_backend.harmony.vocabulary import RETURN, encoding


def scored(token_id: int) -> TokenLogprob:
    return TokenLogprob(token_id, -0.25)


def push(gate: ContentGate, *texts: str) -> list[ContentDelta]:
    """Push texts as tokens 0, 1, 2 …"""
    shown = []
    for number, text in enumerate(texts):
        gate.score([scored(number)])
        shown += gate.push(text)
    return shown


def told(deltas: list[ContentDelta]) -> list[tuple[str, list[int]]]:
    return [
        (delta.text, [one.scored.token_id for one in delta.tokens] if isinstance(delta, ScoredContent) else [])
        for delta in deltas
    ]


def test_content_when_nothing_stops_it_then_each_token_goes_out_with_its_text() -> None:
    gate = ContentGate()
    assert told(push(gate, "He", "llo")) == [("He", [0]), ("llo", [1])]
    assert gate.finish() == []


def test_content_when_a_character_spans_tokens_then_they_go_out_with_it() -> None:
    assert told(push(ContentGate(), "a", "", "", "🙂", "b")) == [("a", [0]), ("🙂", [1, 2, 3]), ("b", [4])]


def test_content_when_held_back_then_its_tokens_are_too() -> None:
    gate = ContentGate(["END"])
    assert told(push(gate, "xE", "N", "y")) == [("x", [0]), ("ENy", [1, 2])]


def test_content_when_stopped_then_tokens_of_the_stop_string_are_not_told() -> None:
    gate = ContentGate(["END"])
    shown = push(gate, "one", " E", "ND")
    assert gate.stopped
    assert told([*shown, *gate.finish()]) == [("one", [0]), (" ", [1])]


def test_content_when_it_ends_in_tokens_without_text_then_they_are_told_last() -> None:
    gate = ContentGate()
    shown = push(gate, "a", "")
    assert told([*shown, *gate.finish()]) == [("a", [0]), ("", [1])]


@given(
    texts=st.lists(st.text(alphabet="ab", max_size=3), max_size=12), stop=st.sampled_from([[], ["ab"], ["aab", "b"]])
)
def test_content_when_joined_then_no_token_is_lost_or_told_twice(texts: list[str], stop: list[str]) -> None:
    gate = ContentGate(stop)
    shown: list[ContentDelta] = []
    for number, text in enumerate(texts):
        gate.score([scored(number)])
        shown += gate.push(text)
        if gate.stopped:
            break
    tokens = [token for _, tokens in told([*shown, *gate.finish()]) for token in tokens]
    assert tokens == list(range(len(tokens)))
    assert gate.stopped or len(tokens) == len(texts)


# --- the two shapes -------------------------------------------------------------------------------------------------

HELLO, FACE = encoding().encode("Hello"), encoding().encode("🧑‍🚀")


def test_chat_logprobs_when_told_then_text_bytes_and_alternatives_are_there() -> None:
    token = ContentToken(0, TokenLogprob(HELLO[0], -0.5, (Alternative(RETURN, -0.25), Alternative(HELLO[0], -0.5))))
    (entry,) = chat_logprobs([token])
    assert entry.model_dump() == {
        "token": "Hello",
        "bytes": [72, 101, 108, 108, 111],
        "logprob": -0.5,
        "top_logprobs": [
            {"token": "<|return|>", "bytes": list(b"<|return|>"), "logprob": -0.25},
            {"token": "Hello", "bytes": [72, 101, 108, 108, 111], "logprob": -0.5},
        ],
    }


def test_chat_logprobs_when_a_character_spans_tokens_then_their_bytes_make_it() -> None:
    entries = chat_logprobs([ContentToken(0, scored(token)) for token in FACE])
    assert len(entries) > 1
    assert bytes(byte for entry in entries for byte in entry.bytes).decode() == "🧑‍🚀"
    assert any(entry.token.startswith("\\x") for entry in entries)


def test_text_logprobs_when_told_then_lists_agree_and_the_token_itself_is_among_the_likeliest() -> None:
    token = ContentToken(3, TokenLogprob(HELLO[0], -2.5, (Alternative(RETURN, -0.25),)))
    assert text_logprobs([token], offset=10).model_dump() == {
        "tokens": ["Hello"],
        "token_logprobs": [-2.5],
        "top_logprobs": [{"<|return|>": -0.25, "Hello": -2.5}],
        "text_offset": [13],
    }


@pytest.mark.parametrize("impossible", [float("-inf"), -1e30])
def test_logprobs_when_a_token_is_impossible_then_json_can_say_so(impossible: float) -> None:
    token = ContentToken(0, TokenLogprob(HELLO[0], impossible))
    assert chat_logprobs([token])[0].logprob == -9999.0
    assert text_logprobs([token]).token_logprobs == [-9999.0]

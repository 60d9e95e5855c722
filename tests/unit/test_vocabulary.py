"""Token ids → bytes → text."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_backend.contract import STOP_TOKENS
from gptoss_backend.harmony import vocabulary
from gptoss_backend.harmony.vocabulary import NUM_TOKENS, TextDecoder, encoding, token_bytes

ASTRONAUT = "🧑\u200d🚀"


def encode(text: str) -> list[int]:
    ids: list[int] = encoding().encode(text, disallowed_special=())
    return ids


def test_import_of_the_vocabulary_when_nothing_is_asked_then_the_encoding_is_not_loaded() -> None:
    code = "import sys, gptoss_backend.harmony.channels; print('openai_harmony' in sys.modules, 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    "name", ["STARTOFTEXT", "ENDOFTEXT", "RETURN", "CONSTRAIN", "CHANNEL", "START", "END", "MESSAGE", "CALL"]
)
def test_special_token_when_named_then_the_id_is_the_librarys(name: str) -> None:
    assert encoding().encode(f"<|{name.lower()}|>", allowed_special="all") == [getattr(vocabulary, name)]


def test_stop_tokens_when_compared_with_the_library_then_endoftext_is_among_them_too() -> None:
    assert {*encoding().stop_tokens_for_assistant_actions(), vocabulary.ENDOFTEXT} == STOP_TOKENS


def test_first_special_when_compared_with_the_library_then_special_tokens_begin_there() -> None:
    assert not encoding().is_special_token(vocabulary.FIRST_SPECIAL - 1)
    assert all(encoding().is_special_token(token) for token in range(vocabulary.FIRST_SPECIAL, NUM_TOKENS))


@pytest.mark.parametrize("token_id", [-1, NUM_TOKENS, 2**31, -(2**63)])
def test_token_bytes_when_the_id_is_outside_the_vocabulary_then_they_are_empty(token_id: int) -> None:
    assert token_bytes(token_id) == b""


def test_token_bytes_when_any_id_is_asked_then_none_is_empty() -> None:
    assert all(token_bytes(token_id) for token_id in range(NUM_TOKENS))


def test_text_decoder_when_a_character_spans_tokens_then_it_comes_whole_with_the_last() -> None:
    decoder = TextDecoder()
    pieces = [decoder.push([token]) for token in encode(ASTRONAUT)]
    assert "".join(pieces) == ASTRONAUT
    assert "" in pieces
    assert not any("\ufffd" in piece for piece in pieces)


def test_text_decoder_when_a_character_is_cut_then_finish_gives_a_replacement_and_begins_anew() -> None:
    decoder = TextDecoder()
    assert decoder.push(encode("é 🧑")[:-1]) == "é "
    assert decoder.finish() == "\ufffd"
    assert decoder.push(encode("next")) == "next"
    assert decoder.finish() == ""


@given(st.lists(st.integers(min_value=0, max_value=NUM_TOKENS - 1)), st.integers(min_value=1, max_value=5))
def test_text_decoder_when_tokens_come_in_pieces_then_the_text_is_that_of_the_whole(ids: list[int], size: int) -> None:
    decoder = TextDecoder()
    pieces = [decoder.push(ids[at : at + size]) for at in range(0, len(ids), size)]
    whole = b"".join(map(token_bytes, ids)).decode(errors="replace")
    assert "".join(pieces) + decoder.finish() == whole

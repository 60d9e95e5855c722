"""Cutting text that would be slow to tokenise."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_backend.harmony.runs import MAX_RUN_CHARS, cut_long_runs, has_unbreakable_run
from gptoss_backend.harmony.vocabulary import encoding

ALPHABET = ["a", "B", "é", "你", "9", "1", "'", "s", "-", "/", "ी", "क", "🙂", "。", ".", ",", "=", "_", "t", " ", "\n"]


def encode(text: str) -> list[int]:
    ids: list[int] = encoding().encode(text, disallowed_special=())
    return ids


@given(st.text(max_size=2000))
def test_cut_long_runs_when_parts_are_joined_then_they_are_the_text(text: str) -> None:
    assert "".join(cut_long_runs(text * 3)) == text * 3


@given(st.lists(st.sampled_from(ALPHABET), min_size=MAX_RUN_CHARS, max_size=3 * MAX_RUN_CHARS))
def test_cut_long_runs_when_words_end_somewhere_then_the_ids_are_those_of_the_whole(letters: list[str]) -> None:
    text = "".join(letters)
    if not has_unbreakable_run(text):
        assert [token for part in cut_long_runs(text) for token in encode(part)] == encode(text)


@pytest.mark.parametrize("word", ["it's", "की", "Hello", "e\u0301"])
def test_cut_long_runs_when_a_word_end_is_farther_off_then_no_word_is_cut(word: str) -> None:
    text = ("a." + word * 60) * 20
    assert len(list(cut_long_runs(text))) > 1
    assert not has_unbreakable_run(text)
    assert [token for part in cut_long_runs(text) for token in encode(part)] == encode(text)


def test_cut_long_runs_when_the_text_is_ordinary_then_it_stays_whole() -> None:
    text = "An ordinary sentence, said again. " * 1000
    assert list(cut_long_runs(text)) == [text]


@pytest.mark.parametrize("letter", ["a", " ", "\n", "^", "🙂", "你", "क"])
def test_cut_long_runs_when_one_letter_repeats_then_tokenising_takes_linear_time(letter: str) -> None:
    text = letter * 200_000  # as a whole, 12 s
    started = time.monotonic()
    ids = [token for part in cut_long_runs(text) for token in encode(part)]
    assert time.monotonic() - started < 6
    assert encoding().decode(ids) == text
    assert has_unbreakable_run(text)

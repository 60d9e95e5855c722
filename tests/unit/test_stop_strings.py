"""Where a text ends because a string occurs in it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_adapter.stop_strings import StopStrings

# few letters, so that beginnings of a match are everywhere
TEXT = st.text(alphabet="abé🙂\n", max_size=40)
STOP = st.lists(st.text(alphabet="abé🙂\n", min_size=1, max_size=6), min_size=1, max_size=4)


def cut(text: str, stop: list[str]) -> tuple[str, bool]:
    """The plain way: the shortest beginning of the text that ends in a string, without the longest such string."""
    for end in range(1, len(text) + 1):
        ending = [one for one in stop if text[:end].endswith(one)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


def read(pieces: list[str], stop: list[str]) -> tuple[list[str], bool]:
    matcher = StopStrings(stop)
    shown = []
    for piece in pieces:
        shown.append(matcher.push(piece))
        if matcher.matched:
            return shown, True
    return [*shown, matcher.flush()], False


@given(text=TEXT, stop=STOP, cuts=st.lists(st.integers(0, 40), max_size=8))
def test_text_when_cut_anyhow_then_it_ends_where_the_whole_does(text: str, stop: list[str], cuts: list[int]) -> None:
    places = sorted({0, len(text), *(at for at in cuts if at < len(text))})
    pieces = [text[start:end] for start, end in pairwise(places)]
    shown, matched = read(pieces, stop)
    assert ("".join(shown), matched) == cut(text, stop)


@given(text=TEXT, stop=STOP)
def test_text_when_it_comes_by_characters_then_only_what_may_begin_a_match_is_held_back(
    text: str, stop: list[str]
) -> None:
    matcher = StopStrings(stop)
    shown = ""
    for at, char in enumerate(text, 1):
        shown += matcher.push(char)
        if matcher.matched:
            return
        held = text[len(shown) : at]
        assert text[:at].startswith(shown)
        assert held == "" or any(one.startswith(held) and one != held for one in stop)


@pytest.mark.parametrize(
    ("pieces", "stop", "shown"),
    [
        (["one\n", "\ntwo"], ["\n\n"], ["one", ""]),
        (["one\n", "two"], ["\n\n"], ["one", "\ntwo", ""]),
        (["abc"], ["abc", "b"], ["a"]),
        (["xabcd"], ["bcd", "abcd"], ["x"]),
        (["aab", "aaac"], ["aabaaac"], ["", ""]),
        (["END"], ["END"], [""]),
        (["EN"], ["END"], ["", "EN"]),
        (["anything"], [], ["anything", ""]),
    ],
)
def test_pieces_when_pushed_then_each_shows_what_is_certain(
    pieces: list[str], stop: list[str], shown: list[str]
) -> None:
    assert read(pieces, stop)[0] == shown


@given(first=TEXT, rest=TEXT, stop=STOP)
def test_text_when_it_may_not_end_yet_then_only_a_string_that_is_complete_later_ends_it(
    first: str, rest: str, stop: list[str]
) -> None:
    matcher = StopStrings(stop)
    matcher.may_end = False
    shown = matcher.push(first)
    assert not matcher.matched
    matcher.may_end = True
    shown += matcher.push(rest)
    text = first + rest
    ends = (end for end in range(len(first) + 1, len(text) + 1) if any(text[:end].endswith(one) for one in stop))
    end = next(ends, None)
    assert matcher.matched == (end is not None)
    if end is not None:
        assert shown == text[: end - max(len(one) for one in stop if text[:end].endswith(one))]
    else:
        assert shown + matcher.flush() == text


def test_text_when_interrupted_then_no_match_reaches_across() -> None:
    matcher = StopStrings(["ab"])
    assert matcher.push("xa") == "x"
    assert matcher.flush() == "a"
    assert matcher.push("b") == "b"
    assert not matcher.matched

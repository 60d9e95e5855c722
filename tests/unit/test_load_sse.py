"""Server-sent events out of raw bytes, however they were cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from load.sse import SseEvent, SseParser


def parse(*pieces: bytes) -> list[SseEvent]:
    parser = SseParser()
    return [event for piece in pieces for event in parser.feed(piece)]


def test_parser_when_data_lines_follow_each_other_then_one_event_joins_them() -> None:
    assert parse(b"data: one\ndata:two\n\n") == [SseEvent("one\ntwo")]


def test_parser_when_an_event_is_named_then_the_name_holds_for_that_event_only() -> None:
    assert parse(b"event: error\ndata: a\n\ndata: b\n\n") == [SseEvent("a", "error"), SseEvent("b")]


def test_parser_when_lines_are_comments_ids_or_retries_then_they_are_passed_over() -> None:
    assert parse(b": keep-alive\n\nid: 3\nretry: 10\n: again\ndata: x\n\n") == [SseEvent("x")]


def test_parser_when_only_the_first_space_follows_the_colon_then_the_rest_is_data() -> None:
    assert parse(b"data:  two spaces \n\n") == [SseEvent(" two spaces ")]


def test_parser_when_the_data_is_empty_then_the_event_is_dispatched() -> None:
    assert parse(b"data\n\ndata:\n\n") == [SseEvent(""), SseEvent("")]


def test_parser_when_the_stream_ends_inside_an_event_then_nothing_is_dispatched() -> None:
    assert parse(b"data: whole\n\ndata: half\n") == [SseEvent("whole")]


def test_parser_when_a_crlf_is_cut_in_two_then_it_is_one_line_end() -> None:
    assert parse(b"data: x\r", b"\n\r", b"\ndata: y\r\n\r\n") == [SseEvent("x"), SseEvent("y")]


def test_parser_when_bytes_are_not_utf8_then_they_are_replaced() -> None:
    assert parse(b"data: \xff\n\n") == [SseEvent("\N{REPLACEMENT CHARACTER}")]


# of all that str.splitlines() takes for a line end, the format knows only three
TEXT = st.text(st.characters(exclude_characters="\r\n", exclude_categories=("Cs",)), max_size=20)


@given(
    events=st.lists(st.lists(TEXT, min_size=1, max_size=3), max_size=5),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    cuts=st.lists(st.integers(min_value=0, max_value=400)),
)
def test_parser_when_the_bytes_are_cut_anywhere_then_the_same_events_come_out(
    events: list[list[str]], newline: str, cuts: list[int]
) -> None:
    raw = "".join("".join(f"data: {line}{newline}" for line in lines) + newline for lines in events).encode()
    edges = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    pieces = [raw[start:end] for start, end in pairwise(edges)]

    assert parse(*pieces) == [SseEvent("\n".join(lines)) for lines in events]

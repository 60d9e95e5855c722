"""What the browser has shown, and what in a text cites it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_adapter.responses.server_tools.pages import CitationReader, Page, Pages, argument, sources
from gptoss_backend.harmony.builtin_tools import BROWSER_FIND, BROWSER_OPEN, BROWSER_SEARCH

A = Page("https://a.example/", "A")


def pages_with(*cursors: int) -> Pages:
    pages = Pages()
    for cursor in cursors:
        pages.add(BROWSER_OPEN, "{}", f"[{cursor}] A (https://a.example/)\nL0: x")
    return pages


@pytest.mark.parametrize(
    ("head", "page"),
    [
        ("A (https://a.example/)", A),
        ("A (b) (https://a.example/x_(y))", Page("https://a.example/x_(y)", "A (b)")),
        ("A (view-source:https://a.example/)", A),
        ("A (https://a.example/ü b)", Page("https://a.example/%C3%BC%20b", "A")),
        ("A (https://a.example/%20)", Page("https://a.example/%20", "A")),
        (" (https://a.example/)", Page("https://a.example/", "")),
        ("A", None),
        ("A (ftp://a.example/)", None),
        ("A (https://a.example/...)", None),
        ("A (https://)", None),
        ("A (https://a.example/) b", None),
    ],
)
def test_page_when_the_browser_shows_it_then_its_address_and_title_are_known(head: str, page: Page | None) -> None:
    pages = Pages()
    assert pages.add(BROWSER_OPEN, "{}", f"[3] {head}\n**viewing lines**") == page
    assert pages.get(3) == page


def test_page_when_its_title_is_megabytes_of_addresses_then_it_is_read_at_once() -> None:
    begun = time.thread_time()
    assert Pages().add(BROWSER_OPEN, "{}", "[0] " + " (http://a" * 200_000) is None
    assert time.thread_time() - begun < 1.0


@pytest.mark.parametrize("result", ["", "Error opening link: x", "[x] A (https://a.example/)", "[1]A"])
def test_result_when_it_shows_no_page_then_none_is_known(result: str) -> None:
    pages = pages_with(0)
    assert pages.add(BROWSER_OPEN, "{}", result) is None
    assert pages.at("{}") == A


def test_find_when_it_shows_its_results_then_they_are_of_the_page_that_was_searched() -> None:
    pages = pages_with(0)
    pages.add(BROWSER_SEARCH, "{}", "[1] query\n")
    assert pages.add(BROWSER_FIND, '{"pattern":"x","cursor":0}', "[2] Find results (https://a.example//find?)") == A
    assert pages.get(1) is None


@pytest.mark.parametrize("arguments", ['{"cursor":Infinity}', '{"cursor":"0"}', "[]", "{", "[" * 100_000])
def test_arguments_when_they_name_no_cursor_then_the_latest_page_is_meant(arguments: str) -> None:
    assert pages_with(0).at(arguments) == A
    assert argument(arguments, "id") is None


def test_sources_when_addresses_are_told_then_those_are_the_sources_and_else_the_sites() -> None:
    links = "【0†A†a.example】 【1†B†b.example】 【2†A again†a.example】 【3†of this site】"
    assert sources(links) == ["https://a.example", "https://b.example"]
    assert sources(f"{links} See https://c.example/d?e=f.") == ["https://c.example/d?e=f"]
    assert sources("nothing") == []


@given(
    st.lists(st.sampled_from(["【1†L0】", "【1†L1-L2】", "【2†L1】", "【", "】", "†", "1", "a🗼", " ", "【1†"])),
    st.data(),
)
def test_citations_when_a_text_comes_in_pieces_then_they_are_those_of_the_whole(
    parts: list[str], data: st.DataObject
) -> None:
    text, reader, found = "".join(parts), CitationReader(pages_with(1)), []
    whole = CitationReader(pages_with(1)).read(text)
    while text:
        size = data.draw(st.integers(1, len(text)))
        found += reader.read(text[:size])
        text = text[size:]
    assert found == whole
    assert all("".join(parts)[one.start_index : one.end_index].startswith("【1†") for one in found)

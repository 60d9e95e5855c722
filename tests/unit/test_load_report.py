"""The verdict on the service targets, and the report's files."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from load.records import ChatRecord, Outcome
from load.report.files import write_run
from load.report.summary import Verdict, judge, seconds, summarize
from load.report.text import render

from support.load_runs import STARTED_S, facts


def answered(count: int, *, ttft_s: float = 0.5, e2e_s: float = 4.0, kind: str = "short chat") -> list[ChatRecord]:
    return [ChatRecord(kind, Outcome.ANSWERED.value, STARTED_S + n % 5, e2e_s, ttft_s, 0.02, 64) for n in range(count)]


def failed(count: int, fault: str = "HTTP 503: busy") -> list[ChatRecord]:
    return [ChatRecord("document", Outcome.FAILED.value, STARTED_S + 1, 0.1, fault=fault) for _ in range(count)]


def cut_off(count: int, age_s: float, ttft_s: float | None = 0.5) -> list[ChatRecord]:
    return [ChatRecord("short chat", Outcome.CUT_OFF.value, STARTED_S + 1, age_s, ttft_s) for _ in range(count)]


def left(count: int) -> list[ChatRecord]:
    return [ChatRecord("impatient", Outcome.LEFT.value, STARTED_S + 2, 1.0, 0.5, None, 3) for _ in range(count)]


def verdicts(records: list[ChatRecord], **measured: float) -> dict[str, Verdict]:
    return {row.measure: row for row in judge(records, replace(facts(), **measured))}


def test_judge_when_all_is_well_then_every_target_is_held() -> None:
    rows = verdicts(answered(1000), cache_hit_share=0.42, weights_per_gpu=13.76e9)

    assert {row.held for row in rows.values()} == {True}
    assert [(row.target, row.measured) for row in rows.values()] == [
        ("≤ 7 s", "500 ms"),
        ("≤ 20 s", "4 s"),
        ("< 0.5%", "0%"),
        ("≥ 30%", "42%"),
        ("< 15 GB", "13.8 GB"),
    ]


def test_judge_when_more_than_a_twentieth_is_late_then_only_that_target_is_broken() -> None:
    rows = verdicts(answered(949) + answered(51, ttft_s=7.01))

    assert rows["TTFT p95"].held is False
    assert rows["end-to-end p95"].held is True


def test_judge_when_the_model_is_120b_then_its_tokens_are_held_to_a_target_and_not_its_answers() -> None:
    rows = {row.measure: row for row in judge(answered(10, e2e_s=60.0), replace(facts(), model="gpt-oss-120b"))}

    assert list(rows) == ["TTFT p95", "inter-token p95 of chats", "errors", "prompt cache hits"]
    assert (rows["inter-token p95 of chats"].target, rows["inter-token p95 of chats"].held) == ("≤ 200 ms", True)


def test_judge_when_exactly_on_the_limit_then_the_target_is_held() -> None:
    rows = verdicts(answered(1, ttft_s=7.0, e2e_s=20.0))

    assert rows["TTFT p95"].held is True
    assert rows["end-to-end p95"].held is True


def test_judge_when_one_chat_in_two_hundred_fails_then_the_errors_are_too_many() -> None:
    assert verdicts(answered(199) + failed(1))["errors"].held is False
    # a chat that was left is one that did not fail
    assert verdicts(answered(199) + failed(1) + left(1))["errors"].held is True


def test_judge_when_nothing_was_measured_then_what_must_be_is_broken_and_the_rest_has_no_verdict() -> None:
    rows = verdicts([])

    assert [rows[name].held for name in ("TTFT p95", "end-to-end p95", "errors")] == [False, False, False]
    assert [rows[name].held for name in ("prompt cache hits", "weights per GPU")] == [None, None]


def test_judge_when_chats_were_cut_off_then_those_already_too_old_count_as_late() -> None:
    assert verdicts(answered(1000) + cut_off(100, 5.0))["end-to-end p95"].held is True
    assert verdicts(answered(1000) + cut_off(100, 21.0))["end-to-end p95"].held is False


def test_judge_when_chats_were_cut_off_without_a_token_then_those_already_too_old_count_as_late() -> None:
    assert verdicts(answered(1000) + cut_off(100, 5.0, None))["TTFT p95"].held is True
    assert verdicts(answered(1000) + cut_off(100, 8.0, None))["TTFT p95"].held is False


@pytest.mark.parametrize(("share", "held"), [(0.30, True), (0.29, False)])
def test_judge_when_the_cache_hits_more_or_less_then_its_target_is_held_or_broken(share: float, held: bool) -> None:
    assert verdicts(answered(9), cache_hit_share=share)["prompt cache hits"].held is held


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.0035, "3.5 ms"), (0.9996, "1 s"), (0.25, "250 ms"), (12.345, "12.3 s")]
)
def test_seconds_when_told_then_with_three_digits(value: float, text: str) -> None:
    assert seconds(value) == text


def test_render_when_a_target_is_broken_then_its_row_says_so() -> None:
    records = answered(990) + failed(10) + left(3) + cut_off(1, 2.5)
    text = render(summarize(records, replace(facts(), cache_hit_share=0.2)))

    assert text.splitlines()[0] == (
        "990 answered, 10 failed, 3 left early, 1 cut off in 10 s; the oldest that the end cut off was 2.5 s old"
    )
    assert "document: HTTP 503: busy (10 times)" in text
    assert [line.split()[-1] for line in text.splitlines()[-5:]] == ["held", "held", "BROKEN", "BROKEN", "—"]


class Page(HTMLParser):
    """Collects what a page refers to, its figures' titles, and whether its tags match."""

    VOID = frozenset({"meta"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.num_figures = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]
        self.num_figures += tag == "figure"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("records", [answered(40) + failed(3, "<b>&</b>") + left(4), failed(2), []])
def test_report_when_written_then_its_page_is_whole_and_needs_nothing_beside_it(
    records: list[ChatRecord], tmp_path: Path
) -> None:
    page = write_run(tmp_path / "report", records, summarize(records, facts())).read_text(encoding="utf-8")
    parsed = Page(page)

    assert parsed.open == []
    assert parsed.references == []
    assert parsed.num_figures == 8
    assert not re.search(r"url\(|@import|nan|inf\b", page)
    assert "<b>&</b>" not in page


def test_report_when_written_then_programs_and_people_read_the_same(tmp_path: Path) -> None:
    records = answered(40) + failed(2) + left(3)
    write_run(tmp_path, records, summarize(records, facts()))

    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    with (tmp_path / "chats.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")

    assert summary["all"]["outcomes"] == {"answered": 40, "failed": 2, "left early": 3}
    assert [verdict["held"] for verdict in summary["verdicts"]] == [True, True, False, None, None]
    assert len(rows) == 45
    assert {row["kind"] for row in rows} == {"short chat", "document", "impatient"}
    assert "| errors | < 0.5% | 4.44% | BROKEN |" in markdown
    assert "| 2 | document: HTTP 503: busy |" in markdown

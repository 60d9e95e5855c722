"""Percentiles, and what went on at each moment of a run."""

from __future__ import annotations

import pytest
from load.records import ChatRecord, Outcome
from load.report.figures import backlog_growth, percentile, slices

from support.load_runs import STARTED_S, facts


def chat(began_s: float, e2e_s: float, *, outcome: Outcome = Outcome.ANSWERED, num_tokens: int = 10) -> ChatRecord:
    ttft_s = None if outcome is Outcome.FAILED else e2e_s / 2
    return ChatRecord("short chat", outcome.value, STARTED_S + began_s, e2e_s, ttft_s, 0.01, num_tokens)


@pytest.mark.parametrize(
    ("samples", "share", "expected"),
    [
        ([], 0.95, None),
        ([3.0], 0.95, 3.0),
        ([2.0, 1.0], 0.50, 1.0),
        ([float(n) for n in range(1, 101)], 0.95, 95.0),
        ([float(n) for n in range(1, 21)], 0.95, 19.0),
        ([float(n) for n in range(1, 20)], 0.95, 19.0),
    ],
)
def test_percentile_when_taken_then_it_is_the_nearest_rank(
    samples: list[float], share: float, expected: float | None
) -> None:
    assert percentile(samples, share) == expected


def test_slices_when_a_chat_spans_several_then_each_has_its_part_of_it() -> None:
    parts = slices([chat(2.5, 2.0, num_tokens=20)], facts())

    assert [part.in_flight for part in parts[:6]] == pytest.approx([0, 0, 0.5, 1, 0.5, 0])
    # tokens come from 3.5 s, the first, to 4.5 s
    assert [part.tokens_per_s for part in parts[:6]] == pytest.approx([0, 0, 0, 10, 10, 0])
    assert parts[4].ended == {Outcome.ANSWERED: 1}
    assert parts[4].e2e_s == [2.0]


def test_slices_when_added_up_then_no_token_of_the_run_is_lost() -> None:
    chats = [chat(number * 0.17, 0.3) for number in range(50)]

    parts = slices(chats, facts())

    assert sum(part.tokens_per_s * part.length_s for part in parts) == pytest.approx(500)
    assert sum(part.ended.total() for part in parts) == 50


def test_slices_when_the_run_is_long_then_there_are_sixty_over_all_of_it() -> None:
    parts = slices([], facts(duration_s=300.0))

    assert len(parts) == 60
    assert parts[-1].at_s + parts[-1].length_s / 2 == pytest.approx(300.0)


def test_slices_when_a_chat_ends_after_the_run_then_it_was_under_way_in_it_but_did_not_end_in_it() -> None:
    last = slices([chat(9.0, 5.0)], facts())[-1]

    assert last.in_flight == pytest.approx(1.0)
    assert last.ended.total() == 0


def test_slices_when_a_chat_failed_then_its_time_is_not_a_latency() -> None:
    [part] = slices([chat(0.2, 0.3, outcome=Outcome.FAILED)], facts(duration_s=1.0))

    assert part.ended == {Outcome.FAILED: 1}
    assert (part.ttft_s, part.e2e_s) == ([], [])


def test_backlog_when_answers_take_as_long_at_the_end_as_before_then_nothing_stays_behind() -> None:
    steady = [chat(number * 0.1, 1.0) for number in range(400)]

    assert backlog_growth(slices(steady, facts(40.0)), len(steady)) == 0.0


def test_backlog_when_a_third_more_comes_than_is_answered_then_a_share_of_it_stays_behind() -> None:
    # ten come a second, seven and a half are answered
    behind = [chat(number * 0.1, 1.0 + number * 0.1 / 3) for number in range(400)]

    assert 0.1 < backlog_growth(slices(behind, facts(40.0)), len(behind)) <= 0.25


def test_backlog_when_only_chance_moves_the_number_under_way_then_nothing_stays_behind() -> None:
    # four more are under way at the end than before: no more than Poisson's spread
    uneven = [chat(5.0, 35.0)] * 10 + [chat(29.0, 11.0)] * 4

    assert backlog_growth(slices(uneven, facts(40.0)), len(uneven)) == 0.0

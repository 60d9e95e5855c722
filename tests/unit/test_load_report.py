"""The verdict on the service targets."""

from __future__ import annotations

import pytest
from load.report import Samples, Targets, Verdict, all_held, judge, percentile, render


def good_run() -> Samples:
    return Samples(ttft_s=[0.5] * 1000, answer_s=[4.0] * 1000, inter_token_s=[0.02] * 1000, num_tokens=64_000)


def verdicts(
    samples: Samples, cache_hit_share: float | None = None, *, cache_asked: bool = False
) -> dict[str, Verdict]:
    rows = judge(samples, Targets(), cache_hit_share=cache_hit_share, cache_asked=cache_asked)
    return {row.measure: row for row in rows}


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


def test_judge_when_all_is_well_then_every_target_is_held() -> None:
    rows = verdicts(good_run(), 0.42, cache_asked=True)

    assert {row.held for row in rows.values()} == {True}
    assert rows["TTFT p95"].measured == "0.50 s"
    assert rows["prompt cache hits"].measured == "42.00%"


def test_judge_when_more_than_a_twentieth_is_late_then_only_that_target_is_broken() -> None:
    samples = good_run()
    samples.ttft_s[:51] = [7.01] * 51

    rows = verdicts(samples)
    assert rows["TTFT p95"].held is False
    assert rows["whole answer p95"].held is True
    assert not all_held(list(rows.values()))


def test_judge_when_exactly_on_the_limit_then_the_target_is_held() -> None:
    samples = Samples(ttft_s=[7.0], answer_s=[20.0])

    rows = verdicts(samples)
    assert rows["TTFT p95"].held is True
    assert rows["whole answer p95"].held is True


def test_judge_when_one_chat_in_two_hundred_fails_then_the_errors_are_too_many() -> None:
    samples = Samples(ttft_s=[1.0], answer_s=[1.0] * 199, num_failed=1)
    assert verdicts(samples)["errors"].held is False

    samples.num_left_early = 1  # a chat that was left is one that did not fail
    assert verdicts(samples)["errors"].held is True


def test_judge_when_nothing_was_measured_then_nothing_is_held() -> None:
    rows = verdicts(Samples())

    assert [rows[name].held for name in ("TTFT p95", "whole answer p95", "errors")] == [False, False, False]


def test_judge_when_chats_were_cut_off_then_those_already_too_old_count_as_late() -> None:
    samples = good_run()
    samples.cut_off_s = [5.0] * 100
    assert verdicts(samples)["whole answer p95"].held is True

    samples.cut_off_s = [21.0] * 100
    assert verdicts(samples)["whole answer p95"].held is False


@pytest.mark.parametrize(
    ("share", "asked", "held"), [(0.30, True, True), (0.29, True, False), (None, True, False), (None, False, None)]
)
def test_judge_when_the_cache_was_or_was_not_asked_for_then_its_target_is_judged_or_not(
    share: float | None, asked: bool, held: bool | None
) -> None:
    rows = verdicts(good_run(), share, cache_asked=asked)

    assert rows["prompt cache hits"].held is held
    assert all_held(list(rows.values())) is (held is not False)


def test_samples_when_drained_and_merged_then_nothing_is_lost_or_counted_twice() -> None:
    worker, master = Samples(ttft_s=[1.0], num_failed=2), Samples(ttft_s=[2.0], num_failed=1)

    master.merge(worker.drain())
    master.merge(worker.drain())

    assert master == Samples(ttft_s=[2.0, 1.0], num_failed=3)
    assert worker == Samples()


def test_render_when_a_target_is_broken_then_its_row_says_so() -> None:
    samples = good_run()
    samples.num_failed, samples.num_left_early, samples.cut_off_s = 10, 3, [2.5]
    rows = judge(samples, Targets(), cache_hit_share=None, cache_asked=False)

    assert render(samples, rows, duration_s=100.0).splitlines() == [
        "1000 answered, 10 failed, 3 left early in 100.0 s; 64000 tokens, 640.0 tokens/s",
        "TTFT: p50 0.50 s, p95 0.50 s, p99 0.50 s",
        "whole answer: p50 4.00 s, p95 4.00 s, p99 4.00 s",
        "inter-token: p50 20.00 ms, p95 20.00 ms, p99 20.00 ms",
        "1 chats were cut off by the end of the run, the oldest after 2.5 s; a longer --stop-timeout lets them end",
        "",
        "target             promised  measured       verdict",
        "---------------------------------------------------",
        "TTFT p95           <= 7 s    0.50 s         held",
        "whole answer p95   <= 20 s   4.00 s         held",
        "errors             < 0.50%   0.99%          BROKEN",
        "prompt cache hits  >= 30%    not asked for  -",
    ]


def test_render_when_nothing_was_measured_then_it_still_renders() -> None:
    rows = judge(Samples(), Targets(), cache_hit_share=None, cache_asked=True)

    text = render(Samples(), rows, duration_s=0.0)
    assert "TTFT: no sample" in text
    assert text.count("BROKEN") == 4

"""GET /stats: what it tells, what it tells of Triton, and when Triton cannot be asked."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx
import pytest

from gptoss_adapter import stats_triton
from gptoss_adapter.app import create_app
from gptoss_adapter.metrics import Metrics
from gptoss_adapter.schemas.stats import StatsReport
from gptoss_adapter.stats import stats_report
from gptoss_adapter.stats_activity import Activities, Outcome
from gptoss_adapter.stats_triton import TritonFigures, TritonPage, read_page
from gptoss_backend.settings_sources import load_settings
from support.fake_model_server import HELLO, FakeModelServer
from support.live_app import chat_body, live
from support.triton_page import triton_with

# as tritonserver 2.51 prints them, shortened
PAGE = """\
# HELP nv_inference_count Number of inferences performed
# TYPE nv_inference_count counter
nv_inference_count{model="preprocess",version="1"} 40
# HELP nv_cache_num_hits_per_model Number of cache hits per model
# TYPE nv_cache_num_hits_per_model counter
nv_cache_num_hits_per_model{model="preprocess",version="1"} 30
nv_cache_num_hits_per_model{model="gpt_oss_20b",version="1"} 999
# TYPE nv_cache_num_misses_per_model counter
nv_cache_num_misses_per_model{model="preprocess",version="1"} 8
nv_cache_num_misses_per_model{model="preprocess",version="2"} 2
# TYPE nv_gpu_utilization gauge
nv_gpu_utilization{gpu_uuid="GPU-0"} 0.5
# TYPE nv_gpu_memory_used_bytes gauge
nv_gpu_memory_used_bytes{gpu_uuid="GPU-0"} 20000000000
nv_gpu_memory_total_bytes{gpu_uuid="GPU-0"} 80000000000
# TYPE gptoss_engine_num_requests_running gauge
gptoss_engine_num_requests_running{model="gpt_oss_20b",instance="gpt_oss_20b_0_0"} 3
gptoss_engine_num_requests_running{model="gpt_oss_20b",instance="gpt_oss_20b_1_0"} 4
gptoss_engine_prefix_cache_queries_total{instance="gpt_oss_20b_0_0",model="gpt_oss_20b"} 1000
gptoss_engine_prefix_cache_hits_total{instance="gpt_oss_20b_0_0",model="gpt_oss_20b"} 250
gptoss_engine_spec_decode_num_draft_tokens_total{instance="gpt_oss_20b_0_0",model="gpt_oss_20b"} 10
gptoss_engine_spec_decode_num_accepted_tokens_total{instance="gpt_oss_20b_0_0",model="gpt_oss_20b"} 4
gptoss_engine_weights_bytes{instance="gpt_oss_20b_0_0",model="gpt_oss_20b"} 13000000000
# TYPE gptoss_engine_batch_size histogram
gptoss_engine_batch_size_bucket{instance="gpt_oss_20b_0_0",model="gpt_oss_20b",le="+Inf"} 5
"""
WITHOUT_GPU = "\n".join(line for line in PAGE.splitlines() if "nv_gpu" not in line)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def serving(*models: str) -> Activities:
    activities = Activities(Clock())
    for model in models:
        activities.of(model, "p")
    return activities


def report(activities: Activities | None = None, triton: TritonFigures | str = "away") -> StatsReport:
    return stats_report(activities or serving("gpt-oss-20b"), triton, 0.0, 0.0)


def targets(report: StatsReport) -> dict[str, tuple[float | None, bool | None]]:
    return {target.target: (target.value, target.holds) for target in report.targets}


# --- the adapter's own ----------------------------------------------------------------------------------------------


def test_windows_when_time_passes_then_an_answer_leaves_one_after_the_other() -> None:
    clock = Clock()
    metrics = Metrics(clock)
    meter = metrics.meter("m", "p", clock.now_s)
    meter.begun(10, 4)
    for gap_s, tokens in ((0.5, 1), (0.2, 4)):
        clock.now_s += gap_s
        meter.tokens(tokens)
    meter.ended(Outcome.LENGTH)

    windows = report(metrics.activities).served[0].windows
    for window in windows.values():
        assert window.ended["length"] == 1
        assert (window.ttft_s.count, window.inter_token_s.count, window.e2e_s.count) == (1, 4, 1)
        assert window.ttft_s.p50 == pytest.approx(0.5, rel=0.01)
        assert window.inter_token_s.p99 == pytest.approx(0.05, rel=0.01)
        assert window.e2e_s.p95 == pytest.approx(0.7, rel=0.01)
        assert window.kv_prefix_hit_rate == 0.4
    assert windows["1m"].generated_tokens_per_s == 5  # under a second old: told as of one second

    clock.now_s += 100
    later = report(metrics.activities).served[0]
    assert [window.ttft_s.count for window in later.windows.values()] == [0, 1, 1]
    assert later.windows["5m"].generated_tokens_per_s == pytest.approx(5 / 100.7, abs=0.01)
    assert later.windows["1m"].kv_prefix_hit_rate is None
    assert later.ended["length"] == 1, "since the start"


def test_rates_when_the_first_request_comes_late_then_they_are_since_the_start() -> None:
    clock = Clock()
    activities = Activities(clock)
    clock.now_s += 50
    activities.of("m", "p").note_first_token(0.1, 100)
    assert report(activities).served[0].windows["1m"].generated_tokens_per_s == 2


def test_targets_when_two_profiles_serve_then_they_are_of_both() -> None:
    clock = Clock()
    activities = Activities(clock)
    for _ in range(19):
        activities.of("m", "fast").note_first_token(1.0, 1)
    activities.of("m", "slow").note_first_token(9.0, 1)
    assert targets(report(activities))["ttft_p95"] == (pytest.approx(1.0, rel=0.01), True)
    activities.of("m", "slow").note_first_token(9.0, 1)
    assert targets(report(activities))["ttft_p95"] == (pytest.approx(9.0, rel=0.01), False)


def test_targets_when_120b_serves_then_its_tokens_are_held_to_one_and_not_its_answers() -> None:
    activities = serving("gpt-oss-120b")
    large = activities.of("gpt-oss-120b", "p")
    large.note_end(Outcome.STOP, 60.0)
    large.note_tokens(0.05, 100)
    weights = PAGE + 'gptoss_engine_weights_bytes{instance="gpt_oss_120b_0_0",model="gpt_oss_120b"} 65e9\n'
    alone = targets(report(activities, read_page(weights)))
    assert set(alone) == {"ttft_p95", "inter_token_p95", "error_rate", "cache_hit_rate"}
    assert alone["inter_token_p95"] == (pytest.approx(0.05, rel=0.01), True)

    small = activities.of("gpt-oss-20b", "p")
    small.note_end(Outcome.STOP, 2.0)
    small.note_tokens(9.0, 1000)
    beside = targets(report(activities, read_page(weights)))
    assert beside["e2e_p95"] == (pytest.approx(2.0, rel=0.01), True)
    assert beside["inter_token_p95"] == alone["inter_token_p95"]
    assert beside["weights_per_gpu"] == (13e9, True)


# --- Triton's -------------------------------------------------------------------------------------------------------


def test_triton_when_its_page_is_read_then_engines_cache_and_gpus_are_told() -> None:
    told = report(triton=read_page(PAGE))
    assert told.triton_error is None
    assert told.engines is not None
    first, second = told.engines
    assert (first.instance, first.running, second.running) == ("gpt_oss_20b_0_0", 3, 4)
    assert first.prefix_cache.hit_rate == 0.25
    assert (first.speculation.drafted, first.speculation.accepted, first.speculation.acceptance_rate) == (10, 4, 0.4)
    assert (second.prefix_cache.hit_rate, second.weights_bytes) == (None, None)
    assert told.prompt_cache is not None
    assert (told.prompt_cache.hits, told.prompt_cache.misses, told.prompt_cache.hit_rate) == (30, 10, 0.75)
    assert told.gpus is not None
    (gpu,) = told.gpus
    assert (gpu.uuid, gpu.memory_used_bytes, gpu.utilization, gpu.power_w) == ("GPU-0", 20e9, 0.5, None)
    assert targets(told)["cache_hit_rate"] == (0.75, True)
    assert targets(told)["weights_per_gpu"] == (13e9, True)


def test_max_model_len_when_engines_differ_then_it_is_what_each_of_them_takes() -> None:
    lengths = "".join(
        f'gptoss_engine_max_model_len{{model="gpt_oss_20b",instance="gpt_oss_20b_{at}_0"}} {length}\n'
        for at, length in enumerate((131072, 98304, 0))  # 0: it has not told yet
    )
    figures = read_page(PAGE + lengths)
    assert (figures.max_model_len("gpt_oss_20b"), figures.max_model_len("gpt_oss_120b")) == (98304, None)
    assert read_page(PAGE).max_model_len("gpt_oss_20b") is None


def test_triton_when_there_is_no_gpu_then_nothing_is_said_of_any() -> None:
    told = report(triton=read_page(WITHOUT_GPU))
    assert told.gpus == []
    assert targets(told)["weights_per_gpu"] == (None, None)


def test_triton_when_its_cache_is_off_or_unused_then_no_rate_is_made_up() -> None:
    assert report(triton=read_page("")).prompt_cache is None
    unused = report(triton=TritonFigures((), {}, 0.0, 0.0))
    assert unused.prompt_cache is not None
    assert unused.prompt_cache.hit_rate is None
    assert targets(unused)["cache_hit_rate"] == (None, None)


def test_targets_when_nothing_was_measured_then_each_is_null() -> None:
    assert targets(report()) == dict.fromkeys(
        ("ttft_p95", "e2e_p95", "error_rate", "cache_hit_rate", "weights_per_gpu"), (None, None)
    )


# --- over sockets ---------------------------------------------------------------------------------------------------


def figures(port: int, times: int = 1) -> list[TritonFigures | str]:
    async def ask() -> list[TritonFigures | str]:
        page = TritonPage(f"http://127.0.0.1:{port}/metrics")
        try:
            return await asyncio.gather(*(page.figures() for _ in range(times)))
        finally:
            await page.close()

    return asyncio.run(ask())


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is there is waited for, however busy this machine is."""
    monkeypatch.setattr(stats_triton, "TIMEOUT_S", 30.0)


@pytest.mark.usefixtures("patient")
def test_page_when_many_ask_at_once_then_it_is_fetched_once() -> None:
    with triton_with(PAGE) as (port, asked):
        answers = figures(port, times=20)
    assert asked == ["/metrics"]
    assert answers == [read_page(PAGE)] * 20


@pytest.mark.usefixtures("patient")
def test_page_when_it_is_closed_while_somebody_waits_to_ask_then_what_is_known_is_told() -> None:
    async def ask(port: int) -> list[TritonFigures | str]:
        now_s = iter((0.0, 0.0, 10.0))
        page = TritonPage(f"http://127.0.0.1:{port}/metrics", lambda: next(now_s))
        before = await page.figures()
        await page.close()
        return [before, await page.figures()]

    with triton_with(PAGE) as (port, _):
        assert asyncio.run(ask(port)) == [read_page(PAGE)] * 2


@pytest.mark.parametrize(
    ("page", "status", "delay_s", "why"),
    [
        (PAGE, 503, 0.0, "answered 503"),
        (PAGE, 200, 1.3, "did not answer within 1 s"),
        ('gptoss_engine_x{model="a" 1', 200, 0.0, "not in Prometheus' text format"),
    ],
)
def test_page_when_it_cannot_be_had_then_a_sentence_says_why(page: str, status: int, delay_s: float, why: str) -> None:
    with triton_with(page, status, delay_s) as (port, _):
        (answer,) = figures(port)
    assert isinstance(answer, str)
    assert why in answer


def stats_with(metrics_port: int) -> dict[str, Any]:
    server: dict[str, Any] = {"triton_metrics_port": metrics_port}
    settings = load_settings({"model": "demo", "profile": "latency_first", "server": server}, environ={})
    with live(create_app(settings, model_server=FakeModelServer())) as url, httpx.Client(base_url=url) as client:
        empty = client.get("/stats").json()["served"]
        assert [(one["model"], one["profile"]) for one in empty] == [("gpt-oss-demo", "latency_first")]
        assert empty[0]["windows"]["1m"]["ttft_s"] == {"count": 0, "p50": None, "p95": None, "p99": None}
        client.post("/v1/chat/completions", json=chat_body())
        response = client.get("/stats")
        schema = client.get("/openapi.json").json()["paths"]["/stats"]["get"]["responses"]["200"]
    assert response.status_code == 200
    assert schema["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/StatsReport"}
    StatsReport.model_validate_json(response.text)
    document: dict[str, Any] = response.json()
    return document


@pytest.mark.usefixtures("patient")
def test_stats_when_a_chat_was_answered_then_they_tell_of_it() -> None:
    with triton_with(PAGE) as (port, _):
        document = stats_with(port)
    (served,) = document["served"]
    minute = served["windows"]["1m"]
    assert served["ended"] == minute["ended"]
    assert served["ended"]["stop"] == 1
    assert (served["waiting"], served["running"]) == (0, 0)
    assert minute["ttft_s"]["count"] == minute["e2e_s"]["count"] == 1
    assert minute["inter_token_s"]["count"] == len(HELLO) - 2
    assert minute["generated_tokens_per_s"] > 0
    assert document["prompt_cache"]["hit_rate"] == 0.75
    holds = {target["target"]: target["holds"] for target in document["targets"]}
    assert set(holds.values()) == {True}


def test_page_when_its_address_is_none_then_it_says_that_it_cannot_be_reached() -> None:
    async def ask() -> TritonFigures | str:
        page = TritonPage("http://::1:8002/metrics")
        try:
            return await page.figures()
        finally:
            await page.close()

    assert asyncio.run(ask()) == "Triton's metrics page http://::1:8002/metrics cannot be reached."


def test_stats_when_triton_listens_in_ipv6_then_it_is_asked_at_that_address() -> None:
    server = {"triton_host": "::1", "triton_metrics_port": 1, "triton_grpc_port": 2}
    settings = load_settings({"model": "demo", "server": server}, environ={})
    with live(create_app(settings)) as url:
        document = httpx.get(f"{url}/stats").json()
        health = httpx.get(f"{url}/health")
    assert document["triton_error"] == "Triton's metrics page http://[::1]:1/metrics cannot be reached."
    assert (health.status_code, health.json()["triton"]["live"]) == (503, False)


def test_stats_when_triton_is_away_then_its_part_is_null_and_says_why() -> None:
    with socket.socket() as held:  # nobody listens there, nor can another test meanwhile
        held.bind(("127.0.0.1", 0))
        document = stats_with(held.getsockname()[1])
    assert "cannot be reached" in document["triton_error"]
    assert (document["engines"], document["prompt_cache"], document["gpus"]) == (None, None, None)
    assert document["served"][0]["ended"]["stop"] == 1

"""The metrics pages: their names, the rules they follow, the table that documents them, the service targets' gauge."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from gptoss_adapter.metrics import Metrics
from gptoss_adapter.stats_activity import Outcome
from gptoss_backend.contract import Timings
from support.metric_pages import adapter_page, engine_page, families, faults, full_name, table

ARCHITECTURE = Path(__file__).parents[2] / "ARCHITECTURE.md"
# vLLM's names of what we count, too; it has `vllm:` where we have `gptoss_` (0.32's vllm/v1/metrics and spec_decode)
KNOWN_FROM_VLLM = {
    "e2e_request_latency_seconds",
    "generation_tokens_total",
    "inter_token_latency_seconds",
    "num_requests_running",
    "num_requests_waiting",
    "prompt_tokens_cached_total",
    "prompt_tokens_total",
    "request_decode_time_seconds",
    "request_generation_tokens",
    "request_prefill_time_seconds",
    "request_prompt_tokens",
    "request_queue_time_seconds",
    "request_success_total",
    "time_to_first_token_seconds",
}
KNOWN_OF_THE_ENGINE = {
    "generation_tokens_total",
    "kv_cache_usage_perc",
    "num_preemptions_total",
    "num_requests_running",
    "num_requests_waiting",
    "prefix_cache_hits_total",
    "prefix_cache_queries_total",
    "prompt_tokens_total",
    "request_prompt_tokens",
    "request_queue_time_seconds",
    "request_time_per_output_token_seconds",
    "spec_decode_num_accepted_tokens_total",
    "spec_decode_num_draft_tokens_total",
    "time_to_first_token_seconds",
}


@pytest.fixture
def engine_metrics(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module, over a stand-in for the library of Triton's stub process."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", SimpleNamespace())  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "gptoss_backend.triton.engine_metrics", raising=False)
    yield importlib.import_module("gptoss_backend.triton.engine_metrics")
    sys.modules.pop("gptoss_backend.triton.engine_metrics", None)


def test_names_when_the_meaning_is_vllms_then_so_is_the_name(engine_metrics: ModuleType) -> None:
    here = {full_name(family) for family in families(adapter_page())}
    there = {full_name(family) for family in families(engine_page(engine_metrics))}
    assert {f"gptoss_{name}" for name in KNOWN_FROM_VLLM} <= here
    assert {f"gptoss_engine_{name}" for name in KNOWN_OF_THE_ENGINE} <= there
    assert not here & there, "a query over both pages would count twice"


def test_page_when_nothing_was_asked_yet_then_what_may_fail_is_there_as_zero() -> None:
    metrics = Metrics()
    metrics.expect("gpt-oss-demo", ["balanced", "latency_first"])
    counted = [line for line in metrics.exposition().decode().splitlines() if line.startswith("gptoss_requests_total{")]
    assert len(counted) == 2 * len(Outcome)
    assert all(line.endswith(" 0.0") for line in counted)
    assert metrics.activities.all() == [], "/stats lists what has served"


def test_pages_when_linted_then_without_fault(engine_metrics: ModuleType) -> None:
    for page in (adapter_page(), engine_page(engine_metrics)):
        assert list(faults(page)) == []


@pytest.mark.parametrize(
    "page",
    [
        "# HELP a_total Text\n# TYPE a_total gauge\na_total 1\n",
        "# HELP a Text\n# TYPE a counter\na 1\n",
        "# TYPE a gauge\na 1\n",
        "a 1\n",
        "# HELP a_ms Text\n# TYPE a_ms gauge\na_ms 1\n",
        "# HELP a_gauge Text\n# TYPE a_gauge gauge\na_gauge 1\n",
    ],
)
def test_lint_when_a_page_breaks_a_rule_then_it_says_so(page: str) -> None:
    assert list(faults(page))


def test_pages_when_promtool_checks_them_then_it_has_nothing_to_say(engine_metrics: ModuleType) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on the PATH (Debian's package prometheus has it)")
    for page in (adapter_page(), engine_page(engine_metrics)):
        run = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False)
        assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_table_in_architecture_when_compared_with_the_code_then_they_agree(engine_metrics: ModuleType) -> None:
    expected = table([adapter_page(), engine_page(engine_metrics)])
    text = ARCHITECTURE.read_text(encoding="utf-8")
    written = re.search(r"<!-- metrics -->\n+(.*?)\n+<!-- /metrics -->", text, re.DOTALL)
    assert written is not None
    assert written[1] == expected, f"put this between the markers:\n{expected}"


# --- the meter ------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    for family in families(metrics.exposition().decode()):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    return None


def answered(metrics: Metrics, clock: Clock, first_token_s: float, outcome: Outcome = Outcome.STOP) -> None:
    meter = metrics.meter("m", "p", clock.now_s)
    clock.now_s += first_token_s
    meter.begun(10, 5)
    meter.tokens(1)
    meter.ended(outcome, Timings(0.5, 2.0, 3.5))


def test_phases_when_the_engine_tells_its_timings_then_queue_prefill_and_decode_are_observed() -> None:
    metrics = Metrics(Clock())
    answered(metrics, Clock(), 1.0)
    sums = [value(metrics, f"gptoss_request_{phase}_time_seconds_sum") for phase in ("queue", "prefill", "decode")]
    assert sums == [0.5, 1.5, 1.5]


def test_generation_when_waiting_then_begun_then_ended_then_it_is_in_one_place_at_a_time() -> None:
    metrics = Metrics()
    activity = metrics.activities.of("m", "p")
    places = []
    meter = metrics.meter("m", "p", 0.0)
    for step in (lambda: None, lambda: meter.begun(1, 0), lambda: meter.ended(Outcome.CANCELLED)):
        step()
        shown = [value(metrics, f"gptoss_num_requests_{state}", model="m") or 0 for state in ("waiting", "running")]
        assert shown == [activity.num_waiting, activity.num_running]
        places.append(shown)
    assert places == [[1, 0], [0, 1], [0, 0]]


def test_slo_when_nothing_was_measured_then_there_is_no_series() -> None:
    assert value(Metrics(), "gptoss_slo_ok") is None


def test_slo_when_answers_are_slow_then_it_does_not_hold_until_they_are_an_hour_old() -> None:
    clock = Clock()
    metrics = Metrics(clock)
    answered(metrics, clock, 8.0)
    assert value(metrics, "gptoss_slo_ok", target="ttft_p95") == 0
    assert value(metrics, "gptoss_slo_ok", target="e2e_p95") == 1
    assert value(metrics, "gptoss_slo_ok", target="error_rate") == 1
    clock.now_s += 3600
    answered(metrics, clock, 6.9)
    assert value(metrics, "gptoss_slo_ok", target="ttft_p95") == 1


def test_slo_when_one_in_two_hundred_fails_then_errors_are_too_many() -> None:
    clock = Clock()
    metrics = Metrics(clock)
    for _ in range(199):
        answered(metrics, clock, 0.01)
    for _ in range(10):  # neither is our failure
        answered(metrics, clock, 0.01, Outcome.REFUSED)
        answered(metrics, clock, 0.01, Outcome.CANCELLED)
    assert value(metrics, "gptoss_slo_ok", target="error_rate") == 1
    answered(metrics, clock, 0.01, Outcome.ERROR)
    assert value(metrics, "gptoss_slo_ok", target="error_rate") == 0

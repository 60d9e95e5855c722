"""What the generation stub publishes on Triton's page, over a stand-in for the library of Triton's stub process."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from gptoss_backend.engine.model import ModelInfo
from gptoss_backend.engine.observations import EngineStats, Measure

Calls = list[tuple[str, str, float]]


class MetricFamily:
    """Notes each call on its metrics."""

    COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
    calls: Calls
    made: dict[str, tuple[str, dict[str, str], list[float] | None]]

    def __init__(self, name: str, description: str, kind: str) -> None:
        assert description
        self.name, self.kind = name, kind

    def Metric(self, labels: dict[str, str], buckets: list[float] | None = None) -> object:  # noqa: N802 (Triton's)
        assert (buckets is not None) == (self.kind == "histogram")
        assert self.name not in self.made
        self.made[self.name] = (self.kind, labels, buckets)
        family = self

        class Metric:
            def __getattr__(self, verb: str) -> Callable[[float], None]:
                return lambda value: family.calls.append((family.name, verb, value))

        return Metric()


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    library = ModuleType("triton_python_backend_utils")
    MetricFamily.calls, MetricFamily.made = [], {}
    library.MetricFamily = MetricFamily  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, library.__name__, library)
    monkeypatch.delitem(sys.modules, "gptoss_backend.triton.engine_metrics", raising=False)
    yield importlib.import_module("gptoss_backend.triton.engine_metrics")
    sys.modules.pop("gptoss_backend.triton.engine_metrics", None)


def test_metrics_when_stats_change_then_counters_grow_by_the_difference_and_gauges_are_set(module: ModuleType) -> None:
    metrics = module.EngineMetrics("gpt_oss_demo", "gpt_oss_demo_0_0", None)
    metrics.publish(EngineStats(num_steps=5, num_running=2, stalled_s=0.5), [])
    metrics.publish(EngineStats(num_steps=7, num_running=2), [])
    assert MetricFamily.calls == [
        ("gptoss_engine_num_requests_running", "set", 2),
        ("gptoss_engine_steps_total", "increment", 5),
        ("gptoss_engine_stalled_seconds", "set", 0.5),
        ("gptoss_engine_steps_total", "increment", 2),
        ("gptoss_engine_stalled_seconds", "set", 0.0),
    ]
    assert all(labels == {"model": "gpt_oss_demo", "instance": "gpt_oss_demo_0_0"} for _, labels, _ in made())


def test_histograms_when_values_are_observed_then_buckets_hold_them(module: ModuleType) -> None:
    metrics = module.EngineMetrics("m", "i", None)
    metrics.publish(EngineStats(), [(measure, 3.5) for measure in Measure])
    names = [spec.name for spec in module.HISTOGRAMS]
    assert len(names) == len(Measure), "each measure is shown"
    assert MetricFamily.calls == [(name, "observe", 3.5) for name in names]
    for name in names:
        buckets = MetricFamily.made[name][2]
        assert buckets is not None
        assert buckets == sorted(set(buckets))


def made() -> list[tuple[str, dict[str, str], list[float] | None]]:
    return list(MetricFamily.made.values())


def test_info_when_a_model_is_loaded_then_its_labels_tell_what_and_why(module: ModuleType) -> None:
    info = ModelInfo("H100", 1, "bfloat16", "the choice for every H100", "single", "it fits", "torch", 123)
    module.EngineMetrics("m", "i", info)
    assert MetricFamily.calls == [("gptoss_engine_info", "set", 1), ("gptoss_engine_weights_bytes", "set", 123)]
    _, labels, _ = MetricFamily.made["gptoss_engine_info"]
    assert labels["why_dtype"] == "the choice for every H100"
    assert labels["num_devices"] == "1"
    assert "weight_bytes" not in labels

"""The alert rules: what promtool says of them, that they watch the targets, that compose gives Prometheus its files."""

from __future__ import annotations

import subprocess

import pytest
import yaml

from gptoss_adapter.metrics import INTER_TOKEN_BUCKETS
from gptoss_adapter.stats_targets import (
    CACHE_HIT_RATE,
    E2E_P95,
    ERROR_RATE,
    INTER_TOKEN_P95,
    TARGETS,
    TTFT_P95,
    WEIGHTS_PER_GPU,
    Target,
)
from gptoss_backend.settings import PROJECT_ROOT, Settings
from support.dashboards import PROMETHEUS, assert_takes_promised, limit, rules
from support.prometheus import tool

WATCHED = {
    "GptossFirstTokenLate": TTFT_P95,
    "GptossAnswersLate": E2E_P95,
    "GptossTokensLate": INTER_TOKEN_P95,
    "GptossErrors": ERROR_RATE,
    "GptossPromptCacheHitsLow": CACHE_HIT_RATE,
    "GptossWeightsLarge": WEIGHTS_PER_GPU,
}
MISSED = {"<=": ">", "<": ">=", ">=": "<"}


@pytest.mark.parametrize(
    "arguments", [("check", "config", "prometheus.yml"), ("test", "rules", "rules_test.yml")], ids=" ".join
)
def test_rules_when_promtool_looks_at_them_then_it_finds_no_fault(arguments: tuple[str, ...]) -> None:
    run = subprocess.run(
        (tool("promtool"), *arguments), cwd=PROMETHEUS, capture_output=True, text=True, check=False, timeout=60
    )

    assert run.returncode == 0, run.stdout + run.stderr


def test_alerts_when_counted_then_promtool_is_given_a_case_of_each_and_one_where_it_keeps_still() -> None:
    cases = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text(encoding="utf-8"))["tests"]
    tried = {
        (case["alertname"], bool(case["exp_alerts"])) for test in cases for case in test.get("alert_rule_test", ())
    }

    assert tried == {(rule["alert"], fires) for rule in rules("alert") for fires in (True, False)}


def test_alerts_when_they_fire_then_they_say_what_is_wrong_and_what_to_do() -> None:
    for rule in rules("alert"):
        assert rule["alert"].startswith("Gptoss")
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert set(rule["annotations"]) == {"summary", "description"}


def test_alerts_when_compared_with_the_service_targets_then_each_target_is_watched() -> None:
    assert set(WATCHED.values()) == set(TARGETS)


@pytest.mark.parametrize(("alert", "target"), WATCHED.items())
def test_alerts_when_a_service_target_is_missed_then_they_fire_at_its_limit(alert: str, target: Target) -> None:
    assert limit(alert) == (MISSED[target.comparison], target.limit)


@pytest.mark.parametrize(("alert", "target"), WATCHED.items())
def test_alerts_when_a_target_is_not_promised_of_a_model_then_it_is_left_out(alert: str, target: Target) -> None:
    (rule,) = (rule for rule in rules("alert") if rule["alert"] == alert)

    assert_takes_promised(rule["expr"], target)


def test_alerts_when_tokens_are_late_then_a_bucket_ends_at_their_limit() -> None:
    # a quantile is known no finer than its bucket
    assert limit("GptossTokensLate")[1] in INTER_TOKEN_BUCKETS


def test_alerts_when_an_engine_is_in_trouble_then_they_fire_before_it_turns_clients_away_or_is_restarted() -> None:
    settings = Settings()

    assert limit("GptossQueueFilling")[1] == settings.engine.max_queue / 2
    assert limit("GptossEngineStalled")[1] < settings.server.step_timeout_s


def test_compose_when_prometheus_starts_then_it_has_its_files_and_finds_what_it_scrapes() -> None:
    services = yaml.safe_load((PROJECT_ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    scraped = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    [adapter], [tritons] = scraped[0]["static_configs"], scraped[1]["dns_sd_configs"]
    metrics_port = services["triton"]["environment"]["GPTOSS_SERVER__TRITON_METRICS_PORT"]

    assert "./prometheus:/etc/prometheus:ro" in services["prometheus"]["volumes"]
    assert "--config.file=/etc/prometheus/prometheus.yml" in services["prometheus"]["command"]
    assert [job["job_name"] for job in scraped] == ["adapter", "triton"]
    assert adapter["targets"] == ["adapter:8000"]
    assert (tritons["names"], str(tritons["port"])) == (["triton"], metrics_port)


def test_compose_when_ports_of_the_watchers_are_published_then_only_this_machine_reaches_them() -> None:
    services = yaml.safe_load((PROJECT_ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))["services"]

    for watcher in ("prometheus", "grafana"):
        assert all(port.startswith("127.0.0.1:") for port in services[watcher]["ports"])

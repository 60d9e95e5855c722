"""The dashboards: what Grafana needs of them, that they show metrics there are, that their limits are the targets."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gptoss_adapter.stats_targets import CACHE_HIT_RATE, E2E_P95, ERROR_RATE, TTFT_P95, WEIGHTS_PER_GPU, Target
from gptoss_backend.settings import PROJECT_ROOT
from support.dashboards import (
    DASHBOARDS,
    PROMETHEUS,
    assert_takes_promised,
    dashboard,
    metrics_in,
    panel_queries,
    rules,
)

ARCHITECTURE = PROJECT_ROOT / "ARCHITECTURE.md"
PROVISIONING = PROJECT_ROOT / "docker" / "grafana" / "provisioning"
SIZES = {"stat": (4, 4), "timeseries": (12, 8)}
LIGHTS = {
    "First token, p95": TTFT_P95,
    "Whole answer, p95": E2E_P95,
    "Errors": ERROR_RATE,
    "Prompts from cache": CACHE_HIT_RATE,
    "Weights per GPU": WEIGHTS_PER_GPU,
}


def panels(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = dashboard(path)["panels"]
    return found


def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
    """Return the places of Grafana's grid that a panel covers."""
    at = panel["gridPos"]
    columns, rows = range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
    return set(itertools.product(columns, rows))


def documented_metrics() -> set[str]:
    """Return the names of our metrics' series; a test of its own keeps the table true."""
    text = ARCHITECTURE.read_text(encoding="utf-8")
    table = re.findall(r"^\| `(gptoss_\w+)` \| (\w+) \|", text, re.MULTILINE)
    parts = ("_bucket", "_sum", "_count")
    of_replicas = set(re.findall(r"`(gptoss_replica_\w+)`", text))
    return of_replicas | {f"{name}{part}" for name, kind in table for part in (parts if kind == "histogram" else ("",))}


def test_dashboards_when_grafana_reads_them_then_each_can_be_told_from_the_others() -> None:
    boards = [dashboard(path) for path in DASHBOARDS]

    assert [path.stem for path in DASHBOARDS] == ["engine", "gpus", "overview", "triton"]
    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == len(boards)
    for board in boards:
        assert board["templating"]["list"][0]["type"] == "datasource"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_when_drawn_then_they_share_sizes_and_none_covers_another(path: Path) -> None:
    covered = [cell for panel in panels(path) for cell in cells(panel)]

    assert len(covered) == len(set(covered))
    assert max(column for column, _ in covered) < 24
    assert len({panel["id"] for panel in panels(path)}) == len(panels(path))
    for panel in panels(path):
        assert (panel["gridPos"]["w"], panel["gridPos"]["h"]) == SIZES[panel["type"]], panel["title"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_when_read_then_each_says_what_it_shows_and_in_which_unit(path: Path) -> None:
    for panel in panels(path):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]


def test_queries_when_their_metrics_are_looked_up_then_all_are_there() -> None:
    recorded = {rule["record"] for rule in rules("record")}
    queries = [
        *(query.expr for query in panel_queries()),
        *(rule["expr"] for kind in ("record", "alert") for rule in rules(kind)),
    ]
    ours = {name for expr in queries for name in metrics_in(expr) if not name.startswith("nv_")}

    assert "gptoss_engine_batch_size_sum" in ours
    assert ours <= documented_metrics() | recorded


@pytest.mark.parametrize(("title", "target"), LIGHTS.items())
def test_lights_when_a_target_is_missed_then_they_turn_red_at_its_limit(title: str, target: Target) -> None:
    (panel,) = (panel for path in DASHBOARDS for panel in panels(path) if panel["title"] == title)
    below, above = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]

    assert above["value"] == target.limit
    (shown,) = panel["targets"]
    assert_takes_promised(shown["expr"], target)
    assert (below["color"], above["color"]) == (("red", "green") if target.comparison == ">=" else ("green", "red"))


def test_grafana_when_it_is_provisioned_then_it_finds_prometheus_and_the_dashboards() -> None:
    compose = yaml.safe_load((PROJECT_ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    mounted = dict(volume.split(":")[:2][::-1] for volume in compose["grafana"]["volumes"])
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yaml").read_text(encoding="utf-8"))[
        "datasources"
    ]
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "gptoss.yaml").read_text(encoding="utf-8"))["providers"]
    scraping = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))["global"]

    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in compose
    assert source["jsonData"]["timeInterval"] == scraping["scrape_interval"]
    assert mounted["/etc/grafana/provisioning"] == "./grafana/provisioning"
    assert mounted[provider["options"]["path"]] == "./dashboards"
    home = compose["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home) == Path(provider["options"]["path"]) / "overview.json"

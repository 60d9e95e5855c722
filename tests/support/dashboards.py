"""The dashboards and alert rules of docker/, and the queries in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gptoss_adapter.stats_targets import WEIGHTS_PER_GPU, Target
from gptoss_backend.model_names import MODELS
from gptoss_backend.settings import PROJECT_ROOT

DASHBOARDS = tuple(sorted((PROJECT_ROOT / "docker" / "dashboards").glob("*.json")))
PROMETHEUS = PROJECT_ROOT / "docker" / "prometheus"


@dataclass(frozen=True, slots=True)
class Query:
    """A query, and where it stands."""

    place: str
    expr: str


def dashboard(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return tree


def panel_queries() -> Iterator[Query]:
    """Yield the queries of all panels, as Grafana writes them."""
    for path in DASHBOARDS:
        for panel in dashboard(path)["panels"]:
            for target in panel["targets"]:
                yield Query(f"{path.name}: {panel['title']}: {target['legendFormat']}", target["expr"])


def rules(kind: str) -> Iterator[dict[str, Any]]:
    """Yield the rules of a kind: record or alert."""
    for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text(encoding="utf-8"))["groups"]:
        yield from (rule for rule in group["rules"] if kind in rule)


def limit(alert: str) -> tuple[str, float]:
    """Return what an alert compares with, as (comparison, number): the first of several."""
    (expr,) = (rule["expr"] for rule in rules("alert") if rule["alert"] == alert)
    found = re.search(r" (<|<=|>|>=|==) ([\d.e]+)", expr)
    assert found is not None
    return found[1], float(found[2])


def selects(expr: str, model: str) -> bool:
    """Say whether an expression takes a model's series, by what it asks of their label first."""
    found = re.search(r'\{model(=~|!~|=|!=)"(.+?)"', expr)
    if found is None:
        return True
    is_meant = model == found[2] if found[1] in ("=", "!=") else re.fullmatch(found[2], model) is not None
    return is_meant is (found[1][0] == "=")


def assert_takes_promised(expr: str, target: Target) -> None:
    """Hold an expression to take the series of those models that a target is promised of, and no others."""
    # engines go by their names in Triton
    names = [model.triton if target is WEIGHTS_PER_GPU else model.openai for model in MODELS]
    assert [selects(expr, name) for name in names] == [target.is_promised_of(name) for name in names]


def metrics_in(expr: str) -> set[str]:
    """Return the names of the metrics of an expression that are ours or Triton's."""
    return set(re.findall(r"\b(?:gptoss|nv)[_:][\w:]+", expr))

"""A real Prometheus that scrapes running servers with our configuration, at the pace of a test."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from support.dashboards import PROMETHEUS
from support.live_server import wait_until
from support.ports import free_port


def tool(name: str) -> str:
    """Return the path of promtool or prometheus; without it the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not on the PATH (Debian's package prometheus has it)")
    return found


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def values(self, expr: str) -> list[float]:
        """Return the values of all series that `expr` gives now."""
        series = self._get("query", query=expr)["result"]
        return [float(one["value"][1]) for one in series]

    def rules(self) -> list[dict[str, Any]]:
        """Return every rule and its state."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def targets(self) -> list[dict[str, Any]]:
        """Return what is scraped, and how that went."""
        targets: list[dict[str, Any]] = self._get("targets")["activeTargets"]
        return targets

    def _get(self, what: str, **query: str) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}/api/v1/{what}", params=query).json()
        assert answer["status"] == "success", f"{query}: {answer}"
        result: dict[str, Any] = answer["data"]
        return result


def configuration(targets: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return our own configuration with other targets, by job, and a second's pace."""
    tree: dict[str, Any] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    tree["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    tree["rule_files"] = [str(PROMETHEUS / name) for name in tree["rule_files"]]
    for job in tree["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": list(targets[job["job_name"]])}]
    return tree


@contextmanager
def scraping(folder: Path, targets: Mapping[str, Sequence[str]]) -> Iterator[Prometheus]:
    """Run Prometheus in `folder` while it scrapes `targets`, addresses by job."""
    program, port = tool("prometheus"), free_port()
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump(configuration(targets)), encoding="utf-8")
    command = (
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            prometheus = Prometheus(f"http://127.0.0.1:{port}")
            wait_until(lambda: _is_ready(prometheus), period_s=0.1)
            yield prometheus
        finally:
            process.terminate()
            process.wait(timeout=10)


def _is_ready(prometheus: Prometheus) -> bool:
    try:
        return httpx.get(f"{prometheus.url}/-/ready").status_code == 200
    except httpx.HTTPError:
        return False

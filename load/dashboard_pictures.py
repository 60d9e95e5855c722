"""Pictures of the dashboards, of what a Prometheus has recorded: for docs, where no Grafana is at hand.

Stage: after the last answer.
Owns: the panels' queries over the time asked for.
Does not know: how a panel is drawn (dashboard_drawing).

    python -m load.dashboard_pictures --prometheus http://127.0.0.1:9090 --out load/pictures --minutes 5
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from gptoss_backend.settings import PROJECT_ROOT
from load.dashboard_drawing import Line, draw_dashboard

DASHBOARDS: Final = PROJECT_ROOT / "docker" / "dashboards"
_RATE_INTERVAL: Final = "20s"
"""Four scrapes of docker/prometheus/prometheus.yml, as Grafana reckons it."""
_STEP_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Recording:
    """A stretch of time of a Prometheus. Raises httpx.HTTPStatusError where it refuses a query."""

    client: httpx.Client
    start_s: float
    end_s: float

    def lines(self, panel: dict[str, Any]) -> list[Line]:
        """Return the series of all queries of a panel."""
        return [line for target in panel["targets"] for line in self._series(target)]

    def _series(self, target: dict[str, Any]) -> list[Line]:
        expr = target["expr"].replace("$__rate_interval", _RATE_INTERVAL).replace("$model", ".*")
        query = {"query": expr, "start": self.start_s, "end": self.end_s, "step": _STEP_S}
        answer = self.client.get("/api/v1/query_range", params=query).raise_for_status().json()
        return [
            Line(
                legend(target["legendFormat"], series["metric"]),
                [(at - self.start_s, float(value)) for at, value in series["values"]],
            )
            for series in answer["data"]["result"]
        ]


def legend(form: str, labels: dict[str, str]) -> str:
    """Return a legend's form with the series' labels in it; one it lacks is empty."""
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), form).strip()


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw every dashboard into a file of its name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="Its address [default: %(default)s]")
    parser.add_argument("--minutes", type=float, default=5.0, help="How far back [default: %(default)s]")
    parser.add_argument("--out", type=Path, required=True, help="Folder for the pictures")
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    end_s = time.time()
    with httpx.Client(base_url=asked.prometheus, timeout=30.0) as client:
        recording = Recording(client, end_s - asked.minutes * 60, end_s)
        for path in sorted(DASHBOARDS.glob("*.json")):
            (asked.out / f"{path.stem}.svg").write_text(picture(path, recording), encoding="utf-8")


def picture(path: Path, recording: Recording) -> str:
    """Return a dashboard as SVG."""
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    lines = [recording.lines(panel) for panel in dashboard["panels"]]
    return draw_dashboard(dashboard, lines, recording.end_s - recording.start_s)


if __name__ == "__main__":
    main()

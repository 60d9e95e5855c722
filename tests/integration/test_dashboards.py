"""Every query of the dashboards and alerts, asked of a real Prometheus that watches a real server at work."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pytest

from support.dashboards import Query, metrics_in, panel_queries, rules
from support.live_server import LiveServer, wait_until
from support.prometheus import Prometheus, scraping

LOAD_S = 8.0
RATE_INTERVAL = "20s"
# what Triton tells of a card; there is none here
GPU_PAGE = b"""\
# TYPE nv_gpu_utilization gauge
nv_gpu_utilization{gpu_uuid="GPU-0"} 0.87
# TYPE nv_gpu_memory_total_bytes gauge
nv_gpu_memory_total_bytes{gpu_uuid="GPU-0"} 85520809984
# TYPE nv_gpu_memory_used_bytes gauge
nv_gpu_memory_used_bytes{gpu_uuid="GPU-0"} 79000000000
# TYPE nv_gpu_power_usage gauge
nv_gpu_power_usage{gpu_uuid="GPU-0"} 612.5
# TYPE nv_gpu_power_limit gauge
nv_gpu_power_limit{gpu_uuid="GPU-0"} 700
# TYPE nv_energy_consumption counter
nv_energy_consumption{gpu_uuid="GPU-0"} 1843.2
"""


class GpuPage(BaseHTTPRequestHandler):
    """The GPU part of a metrics page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.end_headers()
        self.wfile.write(GPU_PAGE)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def gpu_page() -> Iterator[str]:
    """The address of a page with a GPU's metrics."""
    with ThreadingHTTPServer(("127.0.0.1", 0), GpuPage) as page:
        thread = threading.Thread(target=page.serve_forever, args=(0.01,), name="gpu-page")
        thread.start()
        yield f"127.0.0.1:{page.server_address[1]}"
        page.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def prometheus(server: LiveServer, gpu_page: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has watched the server at work for some seconds."""
    targets = {
        "adapter": [f"127.0.0.1:{server.port}"],
        "triton": [f"127.0.0.1:{server.port + 2}", gpu_page],
    }
    with scraping(tmp_path_factory.mktemp("prometheus"), targets) as prometheus:
        work(server)
        # two more rounds of rules, of which one looks at what another has recorded
        wait_until(lambda: bool(prometheus.values("gptoss:error_ratio:10m")))
        yield prometheus


def work(server: LiveServer) -> None:
    """Let two people ask for `LOAD_S`: one the same again and again, one always something new.

    Answers are long: greedy ones of random weights then begin to repeat themselves, and tokens are guessed ahead.
    """
    until_s = time.monotonic() + LOAD_S

    def ask(new: bool) -> None:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            turn = 0
            while time.monotonic() < until_s:
                text = f"Tell me about the number {turn}" if new else "a b c d a b c d a b c d a b c d"
                client.chat.completions.create(
                    model="gpt-oss-demo",
                    messages=[{"role": "user", "content": text}],
                    temperature=0,
                    max_tokens=400,
                    extra_body={"ignore_eos": True},
                )
                turn += 1

    with ThreadPoolExecutor(2) as people:
        list(people.map(ask, (False, True)))


def as_asked(expr: str) -> str:
    """Return a panel's query as Grafana sends it, for all models."""
    return expr.replace("$__rate_interval", RATE_INTERVAL).replace("$model", ".*")


def is_empty(prometheus: Prometheus, expr: str) -> bool:
    return not any(math.isfinite(value) for value in prometheus.values(expr))


def test_prometheus_when_it_scrapes_with_our_configuration_then_every_page_is_read(prometheus: Prometheus) -> None:
    targets = prometheus.targets()

    assert {target["labels"]["job"] for target in targets} == {"adapter", "triton"}
    assert [(target["scrapeUrl"], target["lastError"]) for target in targets if target["health"] != "up"] == []


def test_panels_when_a_server_is_at_work_then_none_is_empty(prometheus: Prometheus) -> None:
    queries = [Query(query.place, as_asked(query.expr)) for query in panel_queries()]

    assert len(queries) > 50
    assert [query for query in queries if is_empty(prometheus, query.expr)] == []


def test_rules_when_a_server_is_at_work_then_each_has_what_it_reads_and_no_alert_fires(prometheus: Prometheus) -> None:
    read = {name for rule in rules("alert") for name in metrics_in(rule["expr"])}

    assert {name for name in read if is_empty(prometheus, name)} == set()
    assert [rule["record"] for rule in rules("record") if is_empty(prometheus, rule["record"])] == []
    states = {rule["name"]: (rule["health"], rule.get("state", "inactive")) for rule in prometheus.rules()}
    assert {name: state for name, state in states.items() if state != ("ok", "inactive")} == {}

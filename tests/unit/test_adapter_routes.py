"""The small routes: models, health, metrics; and how the app starts and ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gptoss_adapter.app import create_app
from gptoss_adapter.inference import ModelServerStatus
from gptoss_backend.settings_sources import load_settings
from support.fake_model_server import FOREVER, HELLO, FakeModelServer
from support.live_app import chat_body, live, wait_until
from support.triton_page import triton_with

NOWHERE = {"triton_metrics_port": 9}
SETTINGS = load_settings({"model": "demo", "profile": "latency_first", "server": NOWHERE}, environ={})


@pytest.fixture(scope="module")
def server() -> FakeModelServer:
    return FakeModelServer()


@pytest.fixture(scope="module")
def client(server: FakeModelServer) -> Iterator[httpx.Client]:
    with live(create_app(SETTINGS, model_server=server)) as url, httpx.Client(base_url=url) as client:
        yield client


def test_models_when_listed_then_the_served_one_is_there(client: httpx.Client) -> None:
    document = client.get("/v1/models").json()
    card, alias = document["data"]
    assert document["object"] == "list"
    assert (card["id"], card["object"], card["owned_by"]) == ("gpt-oss-demo", "model", "gptoss-triton")
    assert client.get("/v1/models/gpt-oss-demo").json() == card
    assert (card["root"], card["profiles"]) == ("gpt-oss-demo", ["latency_first"])
    assert alias == {**card, "id": "gpt-oss"}
    assert client.get("/v1/models/gpt-oss").json() == alias


def test_ping_when_all_is_there_then_200_else_503_and_no_body(client: httpx.Client, server: FakeModelServer) -> None:
    assert (client.get("/ping").status_code, client.get("/ping").content) == (200, b"")
    server.status_now = ModelServerStatus(False, None, ("gpt_oss_demo",))
    try:
        assert (client.get("/ping").status_code, client.get("/ping").content) == (503, b"")
    finally:
        server.status_now = ModelServerStatus(True, "2.51.0", ())


@pytest.mark.parametrize("path", ["/health", "/ping", "/v1/models", "/metrics", "/stats", "/"])
def test_head_when_a_monitor_asks_so_then_it_is_answered_as_get_without_a_body(client: httpx.Client, path: str) -> None:
    got, asked = client.get(path), client.head(path)
    assert (asked.status_code, asked.content) == (got.status_code, b"")
    assert asked.headers.get("content-type") == got.headers.get("content-type")
    assert client.get("/ping").status_code == 200  # the connection is whole


def test_head_when_only_post_is_taken_then_405(client: httpx.Client) -> None:
    assert client.head("/v1/chat/completions").status_code == 405
    route = 'route="/ping",status="200"'
    client.head("/ping")
    assert any(route in line and 'method="HEAD"' in line for line in client.get("/metrics").text.splitlines())


def test_version_when_asked_then_it_is_healths(client: httpx.Client) -> None:
    assert client.get("/version").json() == {"version": client.get("/health").json()["versions"]["gptoss"]}


def test_max_model_len_when_the_engine_tells_it_then_cards_and_tokens_do_and_before_that_null(
    server: FakeModelServer, client: httpx.Client
) -> None:
    assert client.get("/v1/models/gpt-oss-demo").json()["max_model_len"] is None
    page = 'gptoss_engine_max_model_len{model="gpt_oss_demo",instance="gpt_oss_demo_0_0"} 2048\n'
    with triton_with(page) as (port, _):
        settings = load_settings({"model": "demo", "server": {"triton_metrics_port": port}}, environ={})
        with live(create_app(settings, model_server=server)) as url, httpx.Client(base_url=url) as one:
            cards = one.get("/v1/models").json()["data"]
            tokens = one.post("/tokenize", json={"prompt": "Hi"}).json()
    assert [card["max_model_len"] for card in [*cards, tokens]] == [2048] * 3


@pytest.mark.parametrize("model", ["gpt-4o", "openai/gpt-oss-20b"])
def test_model_when_not_served_then_404(client: httpx.Client, model: str) -> None:
    response = client.get(f"/v1/models/{model}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


def test_health_when_all_is_there_then_200(client: httpx.Client) -> None:
    response = client.get("/health")
    document = response.json()
    assert response.status_code == 200
    assert (document["status"], document["model"], document["profile"]) == ("ok", "gpt-oss-demo", "latency_first")
    assert document["triton"] == {"live": True, "missing": []}
    assert document["versions"]["triton"] == "2.51.0"
    assert document["uptime_s"] >= 0
    assert client.get("/health/ready").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("status", "missing"),
    [
        (ModelServerStatus(True, "2.51.0", ("gpt_oss_demo",)), ["gpt_oss_demo"]),
        (
            ModelServerStatus(False, None, ("preprocess", "gpt_oss_demo")),
            ["tritonserver", "preprocess", "gpt_oss_demo"],
        ),
    ],
)
def test_health_when_something_is_missing_then_503_names_it(
    client: httpx.Client, server: FakeModelServer, status: ModelServerStatus, missing: list[str]
) -> None:
    before, server.status_now = server.status_now, status
    try:
        response = client.get("/health")
        assert client.get("/health/live").status_code == 200
        ready = client.get("/health/ready")
        assert (ready.status_code, ready.json()) == (503, {"status": "unavailable", "missing": missing})
    finally:
        server.status_now = before
    assert response.status_code == 503
    assert response.json()["status"] == "unavailable"
    assert response.json()["triton"]["missing"] == missing


def test_metrics_when_a_chat_was_answered_then_they_count_it(client: httpx.Client) -> None:
    client.post("/v1/chat/completions", json=chat_body())
    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
    labels = {"model": "gpt-oss-demo", "profile": "latency_first"}
    num_tokens = len(HELLO) - 1

    def value(family: str, sample: str, **more: str) -> float:
        samples = families[family].samples
        return next(one.value for one in samples if one.name == sample and one.labels == {**labels, **more})

    assert value("gptoss_requests", "gptoss_requests_total", outcome="stop") == 1
    assert value("gptoss_prompt_tokens", "gptoss_prompt_tokens_total") == 7
    assert value("gptoss_prompt_tokens_cached", "gptoss_prompt_tokens_cached_total") == 3
    assert value("gptoss_generation_tokens", "gptoss_generation_tokens_total") == num_tokens
    assert value("gptoss_time_to_first_token_seconds", "gptoss_time_to_first_token_seconds_count") == 1
    assert value("gptoss_inter_token_latency_seconds", "gptoss_inter_token_latency_seconds_count") == num_tokens - 1
    assert value("gptoss_e2e_request_latency_seconds", "gptoss_e2e_request_latency_seconds_count") == 1
    assert value("gptoss_num_requests_running", "gptoss_num_requests_running") == 0
    assert all(family.documentation for family in families.values())


def test_metrics_when_a_method_is_made_up_then_it_makes_no_new_series(client: httpx.Client) -> None:
    client.request("BREW", "/coffee")
    assert "BREW" not in client.get("/metrics").text


def test_openapi_when_read_then_every_route_is_in_it(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/models", "/v1/models/{model}", "/health"} <= set(document["paths"])
    for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"):
        assert "422" not in document["paths"][path]["post"]["responses"]
    for path in ("/v1/chat/completions", "/v1/completions"):
        answers = document["paths"][path]["post"]["responses"]["200"]["content"]
        assert set(answers) == {"application/json", "text/event-stream"}


def test_app_when_told_to_end_then_a_running_stream_hears_of_it() -> None:
    server = FakeModelServer(script=[*HELLO[:5], FOREVER])
    body: list[str] = []

    def read(url: str) -> None:
        body.append(httpx.post(f"{url}/v1/chat/completions", json=chat_body(stream=True), timeout=10).text)

    with live(create_app(SETTINGS, model_server=server)) as url:
        reader = threading.Thread(target=read, args=(url,))
        reader.start()
        wait_until(lambda: bool(server.streams))
    reader.join(timeout=10)
    assert '"reasoning":"Easy"' in body[0]
    assert body[0].rstrip().endswith('"code":"service_unavailable"}}')
    assert server.streams[0].abandoned
    assert server.closed

"""Two models behind one server: who serves which request, and a checkpoint that is swapped while both answer."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from gptoss_backend.demo.random_checkpoint import DEMO_SHAPE, write_random_checkpoint
from support import live_server
from support.live_server import GPTOSS, LiveServer, wait_until

PROMPT = {"prompt": "One, two", "max_tokens": 12, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two checkpoints that may be served as gpt-oss-20b."""
    folders = [tmp_path_factory.mktemp("checkpoints") / f"small-{seed}" for seed in (31, 32)]
    for seed, folder in enumerate(folders):
        write_random_checkpoint(folder, DEMO_SHAPE, seed=seed, name="test")
    return folders


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, small: list[Path]) -> Iterator[LiveServer]:
    environment = {
        "GPTOSS_CHECKPOINTS__DEMO": str(checkpoint),
        "GPTOSS_CHECKPOINTS__20B": str(small[0]),
        "GPTOSS_PROFILES__LATENCY_FIRST__MODEL": "demo",
        "GPTOSS_PROFILES__LATENCY_FIRST__MAX_NUM_SEQS": "1",
        "GPTOSS_PROFILES__LATENCY_FIRST__MAX_QUEUE": "1",
        "GPTOSS_ENGINE__KV_CACHE_BYTES": str(256 * 2**20),
    }
    server = live_server.start(tmp_path_factory.mktemp("run"), None, "--model", "20b", environment=environment)
    yield server
    status, output = live_server.stop(server)
    assert status == 0, output


def ask(server: LiveServer, model: str, **fields: object) -> httpx.Response:
    body = {"model": model, **PROMPT, **fields}
    return httpx.post(f"{server.url}/v1/completions", json=body, timeout=120.0)


def reload(server: LiveServer, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(GPTOSS), "reload", *options, "--run-dir", str(server.run_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def told(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


@pytest.mark.parametrize(
    ("model", "fields", "served"),
    [
        ("gpt-oss", {}, ("gpt-oss-20b", "balanced")),
        ("gpt-oss", {"profile": "latency_first"}, ("gpt-oss-demo", "latency_first")),
        ("gpt-oss-demo", {}, ("gpt-oss-demo", "latency_first")),
        ("gpt-oss-20b", {"profile": "latency_first"}, ("gpt-oss-20b", "latency_first")),
    ],
)
def test_request_when_two_models_are_served_then_it_gets_the_one_it_names_or_that_of_its_profile(
    server: LiveServer, model: str, fields: dict[str, str], served: tuple[str, str]
) -> None:
    labels = {"model": served[0], "profile": served[1], "outcome": "length"}
    triton_model = served[0].replace("-", "_")
    counted = server.metric("gptoss_requests_total", **labels)
    finished = server.triton_metric("gptoss_engine_requests_finished_total", model=triton_model)

    answer = ask(server, model, **fields)

    assert (told(answer)["model"], answer.headers["x-gptoss-profile"]) == served
    assert server.metric("gptoss_requests_total", **labels) == counted + 1
    wait_until(
        lambda: server.triton_metric("gptoss_engine_requests_finished_total", model=triton_model) == finished + 1
    )


def test_profile_when_its_model_is_not_served_then_400_says_what_is(server: LiveServer) -> None:
    refused = ask(server, "gpt-oss", profile="quality_first")
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, "profile")
    assert "gpt-oss-120b" in error["message"]
    assert "'latency_first' (demo)" in error["message"]


def test_engine_when_its_models_profile_bounds_batch_and_queue_then_it_takes_no_more_and_the_others_do(
    server: LiveServer,
) -> None:
    def statuses(model: str) -> list[int]:
        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(ask, server, model, max_tokens=1_000) for _ in range(6)]
        return [one.result().status_code for one in asked]

    assert set(statuses("gpt-oss-demo")) == {200, 429}
    assert set(statuses("gpt-oss-20b")) == {200}


def test_models_when_two_are_served_then_health_and_the_list_name_both(server: LiveServer) -> None:
    health = httpx.get(f"{server.url}/health").json()
    listed = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert health["models"] == [
        {"model": "gpt-oss-demo", "profile": "latency_first", "ready": True},
        {"model": "gpt-oss-20b", "profile": "balanced", "ready": True},
    ]
    assert {card["id"]: (card["root"], card["profiles"]) for card in listed} == {
        "gpt-oss-demo": ("gpt-oss-demo", ["latency_first"]),
        "gpt-oss-20b": ("gpt-oss-20b", ["balanced"]),
        "gpt-oss": ("gpt-oss-20b", ["balanced", "latency_first"]),
    }


def test_response_when_it_continues_one_of_another_model_then_the_model_is_switched(server: LiveServer) -> None:
    def respond(**fields: object) -> dict[str, Any]:
        body = {"input": "Hi", "max_output_tokens": 8, **fields}
        return told(httpx.post(f"{server.url}/v1/responses", json=body, timeout=60.0))

    first = respond(model="gpt-oss-demo")
    second = respond(model="gpt-oss-20b", previous_response_id=first["id"])
    assert (first["model"], second["model"]) == ("gpt-oss-demo", "gpt-oss-20b")


def test_reload_when_a_checkpoint_does_not_load_then_it_says_why_and_the_old_one_serves_on(
    server: LiveServer, small: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text((small[0] / "config.json").read_text())
    before = told(ask(server, "gpt-oss-20b"))
    done = reload(server, "20b", "--checkpoint", str(tmp_path))
    after = told(ask(server, "gpt-oss-20b"))
    assert done.returncode == 1
    assert f"error: the checkpoint shard {tmp_path / 'model.safetensors'} is missing; " in done.stderr
    assert "gpt-oss-20b serves on with what it had" in done.stderr
    assert after["choices"] == before["choices"]
    assert after["system_fingerprint"] == before["system_fingerprint"]


def test_reload_when_requests_are_under_way_then_they_end_well_and_new_ones_get_the_new_weights(
    server: LiveServer, small: list[Path]
) -> None:
    before = told(ask(server, "gpt-oss-20b"))
    demo_before = told(ask(server, "gpt-oss-demo"))
    is_over = threading.Event()

    def keep_asking(model: str, **fields: object) -> list[httpx.Response]:
        answers = []
        while not is_over.is_set():
            answers.append(ask(server, model, **fields))
        return answers

    with ThreadPoolExecutor(4) as pool:
        # one after another: whenever the new weights come, one is under way
        long = pool.submit(keep_asking, "gpt-oss-20b", max_tokens=1_000, temperature=1.0)
        asked = [long, *(pool.submit(keep_asking, model) for model in ("gpt-oss-20b", "gpt-oss-demo"))]
        try:
            wait_until(lambda: server.triton_metric("gptoss_engine_num_requests_running", model="gpt_oss_20b") > 0)
            done = reload(server, "20b", "--checkpoint", str(small[1]))
        finally:
            is_over.set()
    after = told(ask(server, "gpt-oss-20b"))

    assert done.returncode == 0, done.stderr
    assert "new requests go to the new checkpoint" in done.stdout
    assert {answer.status_code for answers in asked for answer in answers.result()} == {200}
    assert {told(answer)["usage"]["completion_tokens"] for answer in long.result()} == {1_000}
    assert after["choices"] != before["choices"]
    assert after["system_fingerprint"] != before["system_fingerprint"]
    assert told(ask(server, "gpt-oss-demo"))["choices"] == demo_before["choices"]
    assert str(small[1]) in (server.run_dir / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("repository/models/theirs/load", {"parameters": {"config": "{}", "file:1/model.py": "aW1wb3J0IG9z"}}),
        ("repository/models/gpt_oss_20b/unload", {}),
        ("repository/index", {}),
        ("systemsharedmemory/region/theirs/register", {"key": "/theirs", "offset": 0, "byte_size": 8}),
        ("trace/setting", {"trace_level": ["TIMESTAMPS"]}),
        ("logging", {"log_verbose_level": 1}),
    ],
)
def test_triton_when_a_page_in_a_browser_posts_to_what_could_run_code_then_it_is_refused(
    server: LiveServer, path: str, body: dict[str, Any]
) -> None:
    # as a page of another site may send it, without asking first
    answer = httpx.post(
        f"http://127.0.0.1:{server.port + 3}/v2/{path}",
        content=json.dumps(body),
        headers={"content-type": "text/plain"},
    )
    assert answer.status_code == 403, answer.text
    assert "gptoss-key" in answer.text
    assert (server.run_dir / "triton.key").read_text() not in answer.text


def test_triton_when_a_grpc_client_has_no_key_then_models_and_memory_are_not_its(server: LiveServer) -> None:
    with triton.InferenceServerClient(server.grpc) as client:
        for ask_for in (client.get_model_repository_index, client.get_system_shared_memory_status):
            with pytest.raises(InferenceServerException, match="This protocol is restricted"):
                ask_for()
        assert client.is_model_ready("gpt_oss_20b")


def test_reload_when_the_old_engine_is_gone_then_the_server_is_as_healthy_as_before(server: LiveServer) -> None:
    finished = server.triton_metric("gptoss_engine_requests_finished_total", model="gpt_oss_20b")
    told(ask(server, "gpt-oss-20b"))
    health = httpx.get(f"{server.url}/health")
    state = subprocess.run(
        [str(GPTOSS), "status", "--run-dir", str(server.run_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert health.status_code == 200, health.text
    assert [engine["model"] for engine in health.json()["engines"]].count("gpt_oss_20b") == 1
    assert "gpt-oss-demo (profile latency_first), gpt-oss-20b (profile balanced): ready" in state.stdout
    assert "started again" not in state.stdout
    wait_until(lambda: server.triton_metric("gptoss_engine_requests_finished_total", model="gpt_oss_20b") > finished)

"""Several models under several profiles: which one a request gets, and by what it is held."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gptoss_adapter.app import create_app
from gptoss_adapter.serving import ServedModels
from gptoss_backend.contract import ReasoningEffort
from gptoss_backend.environment import ENV_PREFIX
from gptoss_backend.settings import Settings, SettingsError
from gptoss_backend.settings_sources import load_settings
from gptoss_client.triton_command import triton_command
from gptoss_client.triton_runtime import TritonRuntime
from support.fake_model_server import FakeModelServer
from support.live_app import chat_body, live, sse_documents

PROFILES = {
    "latency_first": {"model": "20b", "reasoning_effort": "low", "temperature": 0.2, "top_p": 0.5, "max_tokens": 99},
    "quality_first": {"model": "120b", "reasoning_effort": "high", "request_timeout_s": 30},
    "balanced": {"model": "20b", "max_tokens": 40, "max_tokens_limit": 50},
}
TREE: dict[str, Any] = {
    "models": ["20b", "demo"],
    "profiles": PROFILES,
    "adapter": {"responses_path": ":memory:"},
}


def settings(**sections: object) -> Settings:
    return load_settings(TREE | sections, environ={})


@pytest.fixture(scope="module")
def server() -> FakeModelServer:
    return FakeModelServer()


@pytest.fixture(scope="module")
def client(server: FakeModelServer) -> Iterator[httpx.Client]:
    with live(create_app(settings(), model_server=server)) as url, httpx.Client(base_url=url) as client:
        yield client


# --- which model, which profile -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "default", "served"),
    [
        ({}, "20b", ("20b", "demo")),
        ({"profile": "quality_first"}, "20b", ("20b", "demo")),  # its own model is not served: the first is its
        ({"model": "demo"}, "demo", ("20b", "demo")),
        ({"models": ["demo"]}, "demo", ("demo",)),
        ({"models": None, "model": "demo"}, "demo", ("demo",)),
        ({"models": None, "profile": "quality_first"}, "120b", ("120b",)),
    ],
)
def test_settings_when_they_name_models_then_those_are_served_and_one_is_that_of_the_profile_in_force(
    sections: dict[str, object], default: str, served: tuple[str, ...]
) -> None:
    tree = {key: value for key, value in (TREE | sections).items() if value is not None}
    read = load_settings(tree, environ={})
    assert (read.served_model, read.served_models) == (default, served)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"models": []}, "models"),
        ({"models": ["demo", "demo"]}, "twice"),
        ({"model": "120b"}, "model is 120b, which is not among models"),
        ({"models": ["7b"]}, "models.0"),
        ({"profiles": {"balanced": {"model": "20b", "max_tokens": 9, "max_tokens_limit": 8}}}, "max_tokens_limit"),
    ],
)
def test_settings_when_models_or_limits_are_at_odds_then_the_start_is_stopped(
    sections: dict[str, object], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        settings(**sections)


@pytest.mark.parametrize(
    ("in_force", "model", "profile", "served"),
    [
        ("balanced", "gpt-oss", None, ("gpt-oss-20b", "balanced")),
        ("balanced", "gpt-oss", "latency_first", ("gpt-oss-20b", "latency_first")),
        ("balanced", "gpt-oss", "quality_first", ("gpt-oss-120b", "quality_first")),
        ("quality_first", "gpt-oss", None, ("gpt-oss-120b", "quality_first")),
        # a model that is named wins, whatever the profile is of
        ("balanced", "gpt-oss-120b", "latency_first", ("gpt-oss-120b", "latency_first")),
        ("balanced", "gpt-oss-demo", "quality_first", ("gpt-oss-demo", "quality_first")),
        # without a profile: the one in force if it is of that model, else the first that is, else the one in force
        ("balanced", "gpt-oss-20b", None, ("gpt-oss-20b", "balanced")),
        ("balanced", "gpt-oss-120b", None, ("gpt-oss-120b", "quality_first")),
        ("quality_first", "gpt-oss-20b", None, ("gpt-oss-20b", "latency_first")),
        ("balanced", "gpt-oss-demo", None, ("gpt-oss-demo", "balanced")),
    ],
)
def test_route_when_a_model_or_a_profile_is_named_then_it_leads_there(
    in_force: str, model: str, profile: str | None, served: tuple[str, str]
) -> None:
    models = ServedModels(settings(profile=in_force, models=["20b", "120b", "demo"]))
    routed = models.route(model, profile)
    assert (routed.name.openai, routed.profile_name) == served
    point = settings().profiles[routed.profile_name]
    most = point.max_tokens or (2048 if served[0] == "gpt-oss-demo" else None)
    assert routed.profile == point.model_copy(update={"max_tokens": most})


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        (
            {"model": "gpt-oss", "profile": "quality_first"},
            400,
            "profile",
            "whose model gpt-oss-120b is not served here",
        ),
        ({"model": "gpt-oss-20b", "profile": "fastest"}, 400, "profile", "'fastest', which is none of"),
        ({"model": "gpt-oss-120b"}, 404, "model", "serves 'gpt-oss-20b' and 'gpt-oss-demo'"),
    ],
)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/completions", {"prompt": "Hi"}),
        ("/v1/responses", {"input": "Hi"}),
        ("/v1/responses/input_tokens", {"input": "Hi"}),
    ],
)
def test_request_when_it_cannot_be_routed_then_the_error_says_what_is_served(
    client: httpx.Client,
    path: str,
    body: dict[str, object],
    fields: dict[str, str],
    status: int,
    param: str,
    words: str,
) -> None:
    response = client.post(path, json=body | fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param)
    assert words in error["message"]


# --- gptoss serve ---------------------------------------------------------------------------------------------------


def gptoss(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command that reads the settings and starts nothing."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(ENV_PREFIX)}
    command = [str(Path(sys.executable).with_name("gptoss")), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=inherited | environment)


@pytest.mark.parametrize(
    ("options", "models", "model"),
    [
        (["--model", "20b", "--model", "120b"], ["20b", "120b"], None),
        # one alone is meant, whatever the environment says
        (["--model", "demo"], ["demo"], "demo"),
        ([], ["20b", "120b"], None),
    ],
)
def test_serve_when_models_are_named_then_those_are_served(
    options: list[str], models: list[str], model: str | None
) -> None:
    told = gptoss("config", "--json", *options, GPTOSS_MODELS="[20b, 120b]")
    found = {entry["key"]: entry["value"] for entry in json.loads(told.stdout)}
    assert (found["models"], found["model"]) == (models, model)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "7b"], "Input should be 'demo', '20b' or '120b'"),
        (["--model", "demo", "--model", "demo"], "twice"),
        (["--model", "demo", "--model", "20b", "--checkpoint", "x"], "--checkpoint is one model's"),
    ],
)
def test_serve_when_models_are_named_wrongly_then_it_says_so(options: list[str], words: str) -> None:
    refused = gptoss("config", *options)
    assert refused.returncode == 2
    assert words in refused.stderr


def test_triton_when_several_models_are_served_then_it_loads_each_and_its_ensemble() -> None:
    runtime = TritonRuntime(Path("/t/bin/tritonserver"), Path("/t/backends"), Path("/t/caches"))
    command = triton_command(settings(), runtime, config_name=None, shm_prefix="x")
    loaded = [flag.partition("=")[2] for flag in command if flag.startswith("--load-model=")]
    assert loaded == ["preprocess", "gpt_oss_20b", "gpt_oss_20b_chat", "gpt_oss_demo", "gpt_oss_demo_chat"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "10.0.0.1"])
def test_triton_when_somebody_reaches_it_then_models_and_memory_are_not_theirs_wherever_it_listens(host: str) -> None:
    runtime = TritonRuntime(Path("/t/bin/tritonserver"), Path("/t/backends"), Path("/t/caches"))
    flags = [
        triton_command(settings(server={"triton_host": host}), runtime, config_name=None, shm_prefix="x")
        for _ in range(2)
    ]
    closed = [[flag for flag in each if "gptoss-key" in flag] for each in flags]
    apis = "model-repository,shared-memory,trace,logging:gptoss-key="
    for each in closed:
        assert [flag.rpartition("=")[0] + "=" for flag in each] == [
            f"--http-restricted-api={apis}",
            f"--grpc-restricted-protocol={apis}",
        ]
    assert closed[0] != closed[1], "a key that nobody was told is another each time"


# --- tagged with what served it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/completions", {"prompt": "Hi"}),
        ("/v1/responses", {"input": "Hi"}),
    ],
)
def test_answer_when_given_then_model_and_profile_are_those_that_served_it(
    client: httpx.Client, server: FakeModelServer, path: str, body: dict[str, object], stream: bool
) -> None:
    server.forget()
    sample = 'gptoss_requests_total{model="gpt-oss-demo",outcome="stop",profile="latency_first"} '
    counted = _value(client.get("/metrics").text, sample)

    asked = {"model": "gpt-oss-demo", "profile": "latency_first", "stream": stream}
    response = client.post(path, json=body | asked)

    assert response.headers["x-gptoss-profile"] == "latency_first"
    assert '"model":"gpt-oss-demo"' in response.text
    assert [model.triton for model in server.models] == ["gpt_oss_demo"]
    assert _value(client.get("/metrics").text, sample) == counted + 1


def test_fingerprint_when_models_differ_then_so_does_it_and_a_reload_changes_one(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(settings().dump_yaml())
    models = ServedModels(settings(), file)

    def fingerprints() -> list[str]:
        return [models.route(name.openai).fingerprint for name in models.names]

    before = fingerprints()
    assert len(set(before)) == 2
    file.write_text(settings(checkpoints={"demo": "/elsewhere"}).dump_yaml())
    after = fingerprints()
    assert (after[0] == before[0], after[1] == before[1]) == (True, False)
    file.write_text("half: [written")
    assert fingerprints() == after


def test_models_when_listed_then_each_says_what_leads_to_it(client: httpx.Client) -> None:
    cards = {card["id"]: card for card in client.get("/v1/models").json()["data"]}
    assert {name: (card["root"], card["profiles"]) for name, card in cards.items()} == {
        "gpt-oss-20b": ("gpt-oss-20b", ["balanced", "latency_first"]),
        "gpt-oss-demo": ("gpt-oss-demo", ["balanced"]),
        "gpt-oss": ("gpt-oss-20b", ["balanced", "latency_first"]),
    }
    assert client.get("/v1/models/gpt-oss-120b").status_code == 404


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("openai/gpt-oss-20b", "gpt-oss-20b"),
        ("gpt-oss:20b", "gpt-oss-20b"),
        ("openai/gpt-oss-demo", "gpt-oss-demo"),
        ("gpt-oss:demo", "gpt-oss-demo"),
    ],
)
def test_model_when_it_is_called_as_elsewhere_then_it_answers_under_its_own_name(
    client: httpx.Client, name: str, model: str
) -> None:
    assert client.post("/v1/chat/completions", json=chat_body(model=name)).json()["model"] == model
    assert client.get(f"/v1/models/{name}").json() == {**client.get(f"/v1/models/{model}").json(), "id": name}
    assert name not in {card["id"] for card in client.get("/v1/models").json()["data"]}


def test_model_when_the_operator_has_named_it_then_it_answers_to_that_and_is_listed() -> None:
    adapter = {"model_names": {"gpt-4o": "20b", "o3": "120b"}, "responses_path": ":memory:"}
    with live(create_app(settings(adapter=adapter), model_server=FakeModelServer())) as url:
        answer = httpx.post(f"{url}/v1/chat/completions", json=chat_body(model="gpt-4o"))
        listed = [card["id"] for card in httpx.get(f"{url}/v1/models").json()["data"]]
        card = httpx.get(f"{url}/v1/models/gpt-4o").json()
        of_a_model_not_served = [httpx.get(f"{url}/v1/models/{name}").status_code for name in ("o3", "gpt-oss:120b")]
    assert answer.json()["model"] == "gpt-oss-20b"
    assert listed == ["gpt-oss-20b", "gpt-oss-demo", "gpt-oss", "gpt-4o"]
    assert (card["id"], card["root"], card["profiles"]) == ("gpt-4o", "gpt-oss-20b", ["balanced", "latency_first"])
    assert of_a_model_not_served == [404, 404]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"gpt-oss": "20b"}, "gpt-oss is a name that the models have anyway"),
        ({"gpt-oss:20b": "120b"}, "gpt-oss:20b is a name"),
        ({"gpt-4o": "7b"}, "model_names.gpt-4o"),
    ],
)
def test_settings_when_they_name_a_model_as_another_is_then_the_start_is_stopped(
    names: dict[str, str], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        settings(adapter={"model_names": names})


def test_stats_when_nothing_was_asked_then_every_model_is_there() -> None:
    with live(create_app(settings(), model_server=FakeModelServer())) as url:
        served = httpx.get(f"{url}/stats").json()["served"]
    assert [(one["model"], one["profile"]) for one in served] == [
        ("gpt-oss-20b", "balanced"),
        ("gpt-oss-demo", "balanced"),
    ]


# --- held by the profile --------------------------------------------------------------------------------------------


def test_chat_when_it_sets_nothing_then_its_profile_decides(client: httpx.Client, server: FakeModelServer) -> None:
    for profile in ("latency_first", "balanced"):
        server.forget()
        client.post("/v1/chat/completions", json=chat_body(model="gpt-oss-20b", profile=profile)).raise_for_status()
        (sampling,) = server.samplings
        found = (server.chats[0].reasoning_effort, sampling.temperature, sampling.top_p, sampling.max_tokens)
        assert (
            found
            == {
                "latency_first": (ReasoningEffort.LOW, 0.2, 0.5, 99),
                "balanced": (ReasoningEffort.MEDIUM, 1.0, 1.0, 40),
            }[profile]
        )


def test_chat_when_it_says_otherwise_then_the_profile_stands_back(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.forget()
    fields = {"temperature": 0.0, "top_p": 0.9, "max_tokens": 50, "reasoning_effort": "high"}
    client.post("/v1/chat/completions", json=chat_body(model="gpt-oss", **fields)).raise_for_status()
    (sampling,) = server.samplings
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.0, 0.9, 50)
    assert server.chats[0].reasoning_effort is ReasoningEffort.HIGH


def test_chat_when_its_profile_has_a_deadline_then_the_engine_is_told(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.forget()
    body = chat_body(model="gpt-oss-demo", profile="quality_first", stream=True)
    assert sse_documents(client.post("/v1/chat/completions", json=body))[-1] == "[DONE]"
    assert server.samplings[0].timeout_s == 30


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}, "max_tokens"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}, "max_completion_tokens"),
        ("/v1/completions", {"prompt": "Hi"}, "max_tokens"),
        ("/v1/responses", {"input": "Hi"}, "max_output_tokens"),
    ],
)
def test_request_when_it_asks_for_more_tokens_than_its_profile_gives_then_400_names_the_field(
    client: httpx.Client, path: str, body: dict[str, object], param: str
) -> None:
    response = client.post(path, json={"model": "gpt-oss", **body, param: 51})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert client.post(path, json={"model": "gpt-oss", **body, param: 50}).status_code == 200
    free = {"model": "gpt-oss", "profile": "latency_first", **body, param: 51}
    assert client.post(path, json=free).status_code == 200


def test_completion_when_the_limit_is_below_openais_default_then_the_limit_holds() -> None:
    server = FakeModelServer()
    profiles = {"balanced": {"model": "20b", "max_tokens_limit": 10, "max_tokens": 10}}
    with live(create_app(settings(profiles=profiles), model_server=server)) as url:
        httpx.post(f"{url}/v1/completions", json={"model": "gpt-oss", "prompt": "Hi"}).raise_for_status()
    assert server.samplings[0].max_tokens == 10


def _value(page: str, sample: str) -> float:
    found = [line.removeprefix(sample) for line in page.splitlines() if line.startswith(sample)]
    return float(found[0]) if found else 0.0

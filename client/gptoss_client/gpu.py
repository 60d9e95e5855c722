"""The NVIDIA GPUs of this machine, as their driver tells.

Stage: start of a server, and `gptoss doctor`.
Owns: whether Triton has a GPU to work with, and which there are; that a driver which fails is no machine without one.
Does not know: what differs with the answer.
"""

from __future__ import annotations

import contextlib
import csv
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gptoss_client.errors import DriverError

_DEVICES: Final = Path("/dev")
_NO_DEVICES: Final = 6  # nvidia-smi's status where the driver works and knows of no card
_ANSWER_TIMEOUT_S: Final = 20.0  # the driver takes seconds to wake where it is not kept awake
_HIDDEN: Final = {"", "-1", "none", "NoDevFiles"}
_FIELDS: Final = ("index", "name", "driver_version", "memory.total", "memory.free", "uuid")
_MIB: Final = 2**20
_ALL: Final = "all"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card."""

    index: int
    name: str
    driver: str
    total_bytes: int
    free_bytes: int
    uuid: str = ""


def has_nvidia_gpu(environment: Mapping[str, str], devices: Path = _DEVICES) -> bool:
    """Tell whether a process with this environment sees a GPU. Blocks for seconds where the driver has to wake.

    Raises DriverError where nvidia-smi is there and fails: that is a GPU lost rather than none.
    """
    if _visible(environment) in _HIDDEN:
        return False
    # a container with one of the node's cards has /dev/nvidia5 and no /dev/nvidia0
    if any(device.name.removeprefix("nvidia").isdigit() for device in devices.glob("nvidia*")):
        return True
    return any(line.startswith("GPU ") for line in _ask_driver(environment, "-L").splitlines())


def list_gpus(environment: Mapping[str, str]) -> list[Gpu]:
    """Return the cards that a process with this environment sees, in its order (environment.with_card_order). Blocks.

    None where the driver gives no answer; all where they are named in a way that it does not know, as parts of a card.
    """
    visible = _visible(environment)
    if visible in _HIDDEN:
        return []
    answer, gpus = "", []
    with contextlib.suppress(DriverError):
        answer = _ask_driver(environment, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits")
    for row in csv.reader(answer.splitlines(), skipinitialspace=True):
        with contextlib.suppress(ValueError):  # a line of words, or a card that does not tell its memory
            index, name, driver, total, free, uuid = row
            gpus.append(Gpu(int(index), name, driver, int(total) * _MIB, int(free) * _MIB, uuid))
    if visible == _ALL:
        return gpus
    entries = [entry.strip() for entry in visible.split(",") if entry.strip()]
    seen = [gpu for entry in entries for gpu in gpus if _names(entry, gpu)]
    return seen if len(seen) == len(entries) or all(entry.isdigit() for entry in entries) else gpus


def count_gpus(environment: Mapping[str, str]) -> int:
    """Return how many cards a process with this environment can use, also where they are named by their UUID. Blocks.

    0 where the driver gives no answer.
    """
    num_listed = len(list_gpus(environment))
    if "CUDA_VISIBLE_DEVICES" not in environment:
        return num_listed
    return min(num_listed, sum(bool(entry.strip()) for entry in _visible(environment).split(",")))


def _names(entry: str, gpu: Gpu) -> bool:
    """Tell whether an entry of CUDA_VISIBLE_DEVICES means a card: by its number, or its UUID's beginning."""
    return entry == str(gpu.index) or (entry.startswith("GPU-") and gpu.uuid.startswith(entry))


def _visible(environment: Mapping[str, str]) -> str:
    return environment.get("CUDA_VISIBLE_DEVICES", _ALL).strip()


def _ask_driver(environment: Mapping[str, str], *arguments: str) -> str:
    """Return what nvidia-smi prints; nothing where it is not there, or knows of no card. Raises DriverError."""
    try:
        answer = subprocess.run(
            ("nvidia-smi", *arguments),
            env=dict(environment),
            capture_output=True,
            text=True,
            timeout=_ANSWER_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DriverError(f"nvidia-smi has not answered for {_ANSWER_TIMEOUT_S:.0f} s") from None
    except OSError:
        return ""
    if answer.returncode not in (0, _NO_DEVICES):
        said = (answer.stdout + answer.stderr).strip().partition("\n")[0]
        raise DriverError(f"nvidia-smi fails (exit status {answer.returncode}): {said}")
    return answer.stdout if answer.returncode == 0 else ""

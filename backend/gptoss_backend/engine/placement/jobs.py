"""Starting the process of a rank.

Stage: start-up. Owns: what such a process is started with. Does not know: torch, so that any command may start one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

_MODULE = "gptoss_backend.engine.placement.worker"


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is started with."""

    rank: int
    folder: str
    rendezvous_host: str
    rendezvous_port: int
    secret: str
    device: str
    """As torch names it."""
    num_threads: int
    timeout_s: float


def spawn(job: Job, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start the process of a rank. It ends by itself when the engine's does. environment: None: this process's."""
    process = subprocess.Popen((sys.executable, "-m", _MODULE), stdin=subprocess.PIPE, env=environment)
    assert process.stdin is not None  # noqa: S101 (a pipe was asked for)
    process.stdin.write(json.dumps(asdict(job)).encode() + b"\n")  # not an argument: those can be read by anybody
    process.stdin.close()
    return process


def device_names(kind: str, indices: Iterable[int]) -> list[str]:
    """Return a host's devices as torch names them. kind: "cpu", of which every process is one, or "cuda"."""
    return [f"{kind}:{index}" if kind == "cuda" else kind for index in indices]

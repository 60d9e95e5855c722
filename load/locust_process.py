"""A run of locust in a process of its own, as `make load` and `make load-sweep` start it.

Stage: around all.
Owns: locust's command line. Does not know: who starts it, what is done with the report.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gptoss_backend.environment import inherited_environment

PROJECT: Final = Path(__file__).resolve().parents[1]
_MOST_SPAWNS_PER_S: Final = 50.0
_RAMP_SHARE: Final = 0.1
"""Of the duration, until all users are there: the ramp shows throughput at every concurrency up to the highest."""


@dataclass(frozen=True, slots=True)
class Server:
    """Whom to ask."""

    url: str
    model: str | None = None
    """By its OpenAI name; None: the first that the server lists."""
    triton_grpc: str | None = None


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """One run."""

    server: Server
    num_users: int
    duration_s: float
    out: Path
    seed: int = 0
    rate: float | None = None
    more: tuple[str, ...] = ()
    """Further arguments of locust, ours among them."""

    def command(self, *, web: bool = False) -> list[str]:
        """Return the command line. web: with locust's page, where the run is started by hand."""
        server = self.server
        options: dict[str, object | None] = {
            "--host": server.url,
            "--model": server.model,
            "--triton-grpc": server.triton_grpc,
            "--users": self.num_users,
            "--spawn-rate": f"{self._spawn_rate:g}",
            "--run-time": f"{self.duration_s:g}s",
            "--seed": self.seed,
            "--rate": self.rate,
            "--out": self.out,
        }
        told = [text for name, value in options.items() if value is not None for text in (name, str(value))]
        quiet = [] if web else ["--headless", "--only-summary"]
        return [sys.executable, "-m", "locust", "-f", "load/locustfile.py", *quiet, *told, *self.more]

    def run(self, *, web: bool = False, log: Path | None = None) -> int:
        """Run locust and return its exit status: 0 where every target was held. log: for its words; None: here.

        Ctrl-C reaches locust, too, which ends the run and writes its report: KeyboardInterrupt is raised after that.
        """
        if log is None:
            return _wait(subprocess.Popen(self.command(web=web), cwd=PROJECT, env=inherited_environment()))
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            return _wait(
                subprocess.Popen(
                    self.command(web=web),
                    cwd=PROJECT,
                    env=inherited_environment(),
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            )

    @property
    def _spawn_rate(self) -> float:
        if self.rate is not None:
            return _MOST_SPAWNS_PER_S
        return min(_MOST_SPAWNS_PER_S, max(1.0, self.num_users / (_RAMP_SHARE * self.duration_s)))


def _wait(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise

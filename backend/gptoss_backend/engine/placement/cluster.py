"""The processes that hold a model together: who they are and where they meet.

Owns: `Cluster`, and its words. Does not know: whether they live.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

import torch

_LOCALHOST: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Cluster:
    """The ranks of a spread model, the engine's process first."""

    devices: tuple[torch.device, ...]
    """Of the ranks on this host, this process's first."""
    num_ranks: int
    """On all hosts; those elsewhere come by themselves."""
    host: str = _LOCALHOST
    """Where the ranks meet: this host's address, as the others reach it."""
    port: int = 0
    """Of the meeting; 0: any."""
    secret: str = ""
    """Known to all ranks; empty: one is drawn, which suffices for those on this host."""
    timeout_s: float = 120.0
    """The longest that ranks wait for one another in a step."""
    meeting_timeout_s: float = 3600.0
    """The longest that the first rank waits for the others to come: theirs may still be fetching the checkpoint."""
    num_threads: int | None = None
    """Of each process of this host, where it computes on the processor; None: its share of the cores."""

    @property
    def num_threads_each(self) -> int:
        """Threads of one process of this host."""
        return self.num_threads or max(1, len(os.sched_getaffinity(0)) // len(self.devices))

    def __str__(self) -> str:
        """Name the ranks and their devices."""
        here = ", ".join(map(str, self.devices))
        elsewhere = self.num_ranks - len(self.devices)
        return f"ranks 0 to {self.num_ranks - 1} ({here}{f'; {elsewhere} on other hosts' if elsewhere else ''})"

    def advice(self, *, replays: bool = False) -> str:
        """Return what to try where the ranks cannot compute together; empty where nothing is known.

        replays: whether they compute recorded steps.
        """
        tries = []
        if self.num_ranks > len(self.devices):
            tries.append("open all ports between the nodes to each other")
        if self.devices[0].type == "cuda":
            # PCIe's way from card to card loses what it carries behind ACS or an IOMMU
            tries.append("set NCCL_P2P_DISABLE=1, and NCCL_DEBUG=WARN to be told more")
        if replays:
            tries.append("set engine.cuda_graphs to false")
        return f"; where the way between them is at fault: {', '.join(tries)}" if tries else ""

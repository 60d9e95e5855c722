"""What was asked of placement.

Owns: `PlacementOptions`. Does not know: where it was said.
"""

from __future__ import annotations

from dataclasses import dataclass

from gptoss_backend.engine.placement.choice import AUTO, PlacementMode


@dataclass(frozen=True, slots=True)
class PlacementOptions:
    """How a model is to be placed. On CPUs a device is a process."""

    mode: PlacementMode = AUTO
    num_devices: int | None = None
    """On all hosts together. None: as many as there are, or as suffice."""
    num_nodes: int = 1
    """Hosts, each with as many of the devices as the others."""
    host: str = "127.0.0.1"
    """Where ranks meet: the first node's address."""
    port: int = 0
    """0: any, which suffices on one host."""
    secret: str = ""
    """Known to all nodes."""
    timeout_s: float = 120.0
    """The longest that ranks wait for one another in a step."""
    meeting_timeout_s: float = 3600.0
    """The longest that the first rank waits for the others to come."""

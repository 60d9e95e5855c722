"""What can compute: memory, bandwidth and arithmetic by data sheet, and how much of it a server gets.

Stage: before anything is bought.
Owns: those figures, each with its source. Does not know: models, users.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gptoss_backend.engine.placement.choice import Card

_GIB: Final = 2**30


@dataclass(frozen=True, slots=True)
class Efficiency:
    """The shares of a device's bandwidth and arithmetic that a model's passes reach."""

    memory: float
    compute: float
    source: str
    is_measured: bool


@dataclass(frozen=True, slots=True)
class Device:
    """A card, or a machine without one."""

    name: str
    memory_bytes: int
    """All that its driver reports."""
    bandwidth: float
    """Bytes a second."""
    flops: float
    """Dense bfloat16 operations a second; float16 where it has no bfloat16."""
    efficiency: Efficiency
    has_graphs: bool = True
    """Steps are CUDA graphs, or there is no GPU to launch anything on."""
    unembedding_bytes: int = 2
    """Read for each weight of the unembedding: 1 where the likeliest token is first looked for in 8 bits."""

    @property
    def as_card(self) -> Card:
        """The device as a placement sees it."""
        return Card.of_total(self.name, self.memory_bytes)


MEASURED_ON_H100: Final = Efficiency(
    memory=0.38,
    compute=0.17,
    source="measured: load/RESULTS.md, steps alone on an H100 with random weights; the engine's loop, Triton and HTTP "
    "have not been",
    is_measured=True,
)
ASSUMED: Final = Efficiency(
    memory=MEASURED_ON_H100.memory,
    compute=MEASURED_ON_H100.compute,
    source="an assumption: what steps alone reached on an H100 (load/RESULTS.md)",
    is_measured=False,
)
MEASURED_ON_CPU: Final = Efficiency(
    memory=0.75,
    compute=0.75,
    source="measured: load/RESULTS.md, engine alone, 2026-11-23, 2 cores of an AMD EPYC",
    is_measured=True,
)
TENSOR_SHARE: Final = 0.8
"""An assumption: of the speed of several cards that divide every layer, what sums between them leave."""
LAUNCHING_S: Final = 20.2e-3 / 24
"""Of a layer, what the host takes to launch its kernels where a step is no CUDA graph: 256 tokens took 20.2 ms for the
20B's 24 layers on an H100 (load/RESULTS.md), twice what the card had to do. That steps of few rows, with fewer kernels,
and other hosts take as long is an assumption."""
EXCHANGE_S: Final = 30e-6
"""An assumption: what cards take to add up, or to hand on, few rows, however fast they are."""


def _card(
    name: str, gib: float, gb_per_s: float, tflops: float, efficiency: Efficiency = ASSUMED, *, has_graphs: bool = True
) -> Device:
    return Device(name, int(gib * _GIB), gb_per_s * 1e9, tflops * 1e12, efficiency, has_graphs)


DEVICES: Final = {
    # NVIDIA's data sheets; operations without sparsity, memory as drivers report it
    "t4": _card("T4", 14.7, 320, 65, has_graphs=False),
    "l4": _card("L4", 22.0, 300, 121),
    "a10": _card("A10", 22.0, 600, 125),
    "rtx4090": _card("RTX 4090", 23.6, 1008, 165),
    "l40s": _card("L40S", 44.5, 864, 362),
    "a100-40": _card("A100 40 GB", 39.4, 1555, 312),
    "a100": _card("A100 80 GB", 79.1, 2039, 312),
    "h100-pcie": _card("H100 PCIe", 79.1, 2000, 756),
    "h100": _card("H100 SXM", 79.1, 3350, 989, MEASURED_ON_H100),
    "h200": _card("H200", 140.0, 4800, 989),
    "b200": _card("B200", 178.0, 8000, 2250),
    # 24 GB, a bare read of 37 GB/s, a bare tile of products 500 GFLOP/s: ARCHITECTURE.md
    "cpu": Device("2 cores with AVX-512 BF16", int(22.0 * _GIB), 37e9, 0.5e12, MEASURED_ON_CPU, unembedding_bytes=1),
}

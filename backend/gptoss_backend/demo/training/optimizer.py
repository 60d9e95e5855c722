"""Muon for the layers' matrices (https://kellerjordan.github.io/posts/muon/), AdamW for all else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn

_MATRICES: Final = ("qkv", "output", "gate_up", "down")
_NEWTON_SCHULZ: Final = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS: Final = 5
_MATRIX_RATE: Final = 0.02
_OTHER_RATE: Final = 5e-3


class Muon(torch.optim.Optimizer):
    """Momentum whose every step is made orthogonal: all directions of a matrix are learned at the same pace."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        """parameters: [..., out, in], each matrix of the leading dimensions for itself."""
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ANN401 (torch's signature)
        """Move every parameter that has a gradient, in place."""
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                memory = state.setdefault("momentum", torch.zeros_like(parameter))
                memory.lerp_(parameter.grad, 1 - group["momentum"])
                update = _orthogonal(parameter.grad.lerp(memory, group["momentum"]))
                stretch = max(1.0, parameter.shape[-2] / parameter.shape[-1]) ** 0.5
                parameter.add_(update, alpha=-group["lr"] * stretch)


def _orthogonal(matrices: Tensor) -> Tensor:
    """Return the nearest orthogonal matrices, roughly."""
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_NUM_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    nearest: Tensor = x.mT if is_tall else x
    return nearest


def optimizers_for(model: nn.Module) -> tuple[torch.optim.Optimizer, ...]:
    """Return what trains a model's parameters; each group remembers its full rate as `full_lr`."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if name.rpartition(".")[2] in _MATRICES]
    others = [p for name, p in named if name.rpartition(".")[2] not in _MATRICES]
    optimizers = (Muon(matrices, _MATRIX_RATE), torch.optim.AdamW(others, _OTHER_RATE, (0.9, 0.98), weight_decay=0.0))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["full_lr"] = group["lr"]
    return optimizers

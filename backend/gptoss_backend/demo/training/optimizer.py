"""What trains the demo model's parameters.

AdamW for all of them. Muon on the layers' matrices moves every direction at one pace, which seems to wear the guessed
induction heads away. Of the unseen words in tool calls were right, one run each: AdamW 23% after 80 steps; Muon at a
rate of 0.02 12% after 75 and 5% after 225, at 0.005 17% after 80.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

RATE: Final = 2e-3
_BETAS: Final = (0.9, 0.98)


def optimizer_for(model: nn.Module, rate: float = RATE) -> torch.optim.Optimizer:
    """Return the optimiser; its groups remember their full rate as `full_lr`."""
    optimizer = torch.optim.AdamW(model.parameters(), rate, _BETAS, weight_decay=0.0)
    for group in optimizer.param_groups:
        group["full_lr"] = group["lr"]
    return optimizer

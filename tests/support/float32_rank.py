"""Ranks on GPUs that replay their steps in float32 too, where sums parted over cards lead to the tokens of one card.

`python -m support.float32_rank`: a rank's process, as `placement.worker` but so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gptoss_backend.engine import making
from gptoss_backend.engine.placement import worker


def let_float32_replay(put: Callable[[Any, str, Any], None]) -> None:
    """Prepare this process. put: sets an attribute, as `setattr`."""
    put(making, "has_kernels", lambda device, dtype: True)


if __name__ == "__main__":
    let_float32_replay(setattr)
    worker.run()

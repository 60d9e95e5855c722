"""Whether Triton has an NVIDIA GPU to work with.

Stage: start of a server.
Owns: that question.
Does not know: what differs with the answer.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

_ANSWER_TIMEOUT_S = 20.0  # the driver takes seconds to wake where it is not kept awake


def has_nvidia_gpu(environment: Mapping[str, str], device: Path = Path("/dev/nvidia0")) -> bool:
    """Tell whether a process with this environment sees a GPU. Blocks for seconds where the driver has to wake."""
    if environment.get("CUDA_VISIBLE_DEVICES", "all").strip() in {"", "-1", "none", "NoDevFiles"}:
        return False
    return device.exists() or _driver_lists_a_gpu(environment)


def _driver_lists_a_gpu(environment: Mapping[str, str]) -> bool:
    try:
        answer = subprocess.run(
            ("nvidia-smi", "-L"),
            env=dict(environment),
            capture_output=True,
            text=True,
            timeout=_ANSWER_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and any(line.startswith("GPU ") for line in answer.stdout.splitlines())

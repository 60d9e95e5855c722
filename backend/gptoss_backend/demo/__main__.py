"""`python -m gptoss_backend.demo FOLDER`: make the demo checkpoint, where it is not there yet.

Stage: the first `gptoss serve --model demo`. The weights are random: the demo shows the road, not the model's wit.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from gptoss_backend.demo.random_checkpoint import DEMO_NAME, DEMO_SHAPE, write_random_checkpoint


def main() -> int:
    """Write the checkpoint; returns the exit status."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m gptoss_backend.demo FOLDER\n")
        return 2
    folder = Path(sys.argv[1])
    if folder.exists():
        sys.stdout.write(f"gpt-oss-demo: {folder} is there already\n")
        return 0
    started_s = time.monotonic()
    write_random_checkpoint(folder, DEMO_SHAPE, seed=20, name=DEMO_NAME)
    sys.stdout.write(f"gpt-oss-demo: random weights written to {folder} in {time.monotonic() - started_s:.1f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

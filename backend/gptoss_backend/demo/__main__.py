"""`python -m gptoss_backend.demo FOLDER`: write the demo checkpoint, or one of random weights where a shape is named.

With --head-for it is a random draft head for another checkpoint.

Stage: `gptoss make-checkpoint`, and the first start of the demo. What is there already stays as it is.
Owns: the arguments, and what the process that started it reads: with --progress lines "bytes written, bytes in all" on
stdout, and one sentence on stderr where it failed. Asked to end by a signal, it leaves nothing half made behind.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import Final

from gptoss_backend.demo.naming import name_of
from gptoss_backend.demo.random_checkpoint import SHAPES, Progress, write_random_checkpoint
from gptoss_backend.demo.random_head import write_random_head
from gptoss_backend.demo.trained_checkpoint import write_trained_checkpoint
from gptoss_backend.engine.checkpoint import find_checkpoint
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.errors import CheckpointError

DEMO: Final = "demo"
RANDOM_SEED: Final = 20
_TOLD_EVERY_S: Final = 0.1
_INTERRUPTED: Final = 130  # what a shell reports of a command ended by Ctrl-C


def main() -> int:
    """Write the checkpoint; returns the exit status."""
    arguments = _arguments()
    if arguments.folder.exists():
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _write(arguments, _Teller() if arguments.progress else None)
    except (CheckpointError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def _write(arguments: argparse.Namespace, progress: Progress | None) -> None:
    if arguments.head_for is not None:
        target = ModelConfig.from_folder(find_checkpoint(arguments.head_for))
        write_random_head(arguments.folder, target, seed=arguments.seed)
    elif arguments.shape == DEMO:
        write_trained_checkpoint(arguments.folder, progress=progress)
    else:
        write_random_checkpoint(
            arguments.folder,
            SHAPES[arguments.shape],
            seed=arguments.seed,
            name=name_of(arguments.shape),
            experts=arguments.experts,
            progress=progress,
        )


class _Teller:
    """Writes the progress to stdout, some times a second and at the end."""

    def __init__(self) -> None:
        self._told_at = 0.0

    def __call__(self, done: int, total: int) -> None:
        if done == total or time.monotonic() - self._told_at > _TOLD_EVERY_S:
            self._told_at = time.monotonic()
            sys.stdout.write(f"{done} {total}\n")
            sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gptoss_backend.demo")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=(DEMO, *SHAPES), default=DEMO)
    parser.add_argument("--head-for", help="make a random draft head for that checkpoint instead")
    parser.add_argument("--seed", type=int, default=RANDOM_SEED)
    parser.add_argument("--experts", choices=("mxfp4", "bfloat16"), default="mxfp4")
    parser.add_argument("--progress", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

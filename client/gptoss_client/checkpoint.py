"""The checkpoint a server is to load, seen to before Triton starts.

Stage: start of a server.
Owns: that a checkpoint given as a folder is there, and that the demo's is made on first use.
Does not know: what is inside one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from gptoss_backend.settings import Settings, child_environment
from gptoss_client.errors import CommandError, UsageError
from gptoss_client.process import run_step
from gptoss_client.run_state import RunDirectory
from gptoss_client.stop_signal import StopSignal

DEMO: Final = "demo"


def absolute(model: str, checkpoint: str) -> str:
    """Return a folder's full path; the name of a Hugging Face repository stays as it is."""
    folder = Path(checkpoint).expanduser()
    is_folder = model == DEMO or _names_a_folder(checkpoint) or folder.is_dir()
    return os.path.abspath(folder) if is_folder else checkpoint


def ensure_checkpoint(settings: Settings, run: RunDirectory, stop: StopSignal) -> None:
    """Make the demo's checkpoint if it is not there yet; see that any other given as a folder is there.

    Blocks while one is made, which prints its progress. Raises UsageError or CommandError.
    """
    checkpoint = settings.checkpoints[settings.served_model]
    if _is_checkpoint(Path(checkpoint)):
        return
    if settings.served_model == DEMO:
        _make_demo(checkpoint, run, stop)
    elif _names_a_folder(checkpoint):
        raise UsageError(f"there is no checkpoint in {checkpoint} (no config.json): choose another --checkpoint")


def _make_demo(checkpoint: str, run: RunDirectory, stop: StopSignal) -> None:
    command = (sys.executable, "-m", "gptoss_backend.demo", checkpoint)
    status = run_step(command, child_environment(run.config), stop)
    if status and not stop.requested:
        raise CommandError(f"could not make the demo checkpoint in {checkpoint} (exit status {status})")


def _is_checkpoint(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _names_a_folder(checkpoint: str) -> bool:
    return checkpoint.startswith(("/", "~", "./", "../")) or checkpoint in {".", ".."}

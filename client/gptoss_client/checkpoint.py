"""The checkpoint a server is to load, seen to before Triton starts.

Stage: start of a server.
Owns: that a checkpoint is there, as a folder or in the Hugging Face cache, and that the demo's is made on first use,
and anew where an earlier version made it.
Does not know: what is inside one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from gptoss_backend.demo.naming import is_outdated_demo
from gptoss_backend.environment import child_environment
from gptoss_backend.hub import checkpoint_folder, is_repository
from gptoss_backend.model_names import ModelShort
from gptoss_backend.settings import Settings
from gptoss_client.console import plain_console
from gptoss_client.errors import CommandError, UsageError
from gptoss_client.make_checkpoint import CheckpointOrder, make_checkpoint
from gptoss_client.run_state import RunDirectory
from gptoss_client.stop_signal import StopSignal

DEMO: Final = "demo"


def absolute(model: str, checkpoint: str) -> str:
    """Return a folder's full path; the name of a Hugging Face repository stays as it is."""
    folder = Path(checkpoint).expanduser()
    is_folder = model == DEMO or not is_repository(checkpoint) or folder.is_dir()
    return os.path.abspath(folder) if is_folder else checkpoint


def ensure_checkpoints(settings: Settings, run: RunDirectory, stop: StopSignal) -> None:
    """See that the checkpoint of each served model is there; make the demo's if it is not.

    Blocks while one is made, which shows its progress. Raises UsageError or CommandError.
    """
    for model in settings.served_models:
        checkpoint = settings.checkpoints[model]
        if model == DEMO:
            ensure_demo(Path(checkpoint), child_environment(run.config), stop)
        else:
            check_there(model, checkpoint)


def check_checkpoints(settings: Settings) -> None:
    """Raise UsageError where a served model's checkpoint is not there and cannot be made."""
    for model in settings.served_models:
        if model != DEMO:
            check_there(model, settings.checkpoints[model])


def ensure_demo(folder: Path, environment: Mapping[str, str], stop: StopSignal) -> None:
    """See that `folder` holds a checkpoint; make the demo's where there is none, or one of an earlier version's demo.

    Blocks while it is made, here or by another start, which shows its progress. Raises UsageError or CommandError.
    """
    try:
        if is_outdated_demo(folder):
            with suppress(FileNotFoundError):  # another start does the same
                shutil.rmtree(folder)
        if not is_checkpoint(folder):
            make_checkpoint(CheckpointOrder(folder, DEMO), environment, stop, plain_console())
    except (CommandError, OSError) as error:
        if _is_made(folder):
            return  # by another start, meanwhile
        if isinstance(error, UsageError):  # says already what to do
            raise
        raise CommandError(_demo_failed(folder, error)) from error


def _is_made(folder: Path) -> bool:
    try:
        return is_checkpoint(folder) and not is_outdated_demo(folder)
    except OSError:
        return False


def _demo_failed(folder: Path, error: CommandError | OSError) -> str:
    failed = str(error) if isinstance(error, CommandError) else f"could not make a checkpoint in {folder}: {error}"
    return f"{failed}; if the place is at fault, name another: --checkpoint, or checkpoints.demo in the settings"


def check_there(model: ModelShort, checkpoint: str) -> None:
    """Raise UsageError where the checkpoint is not on this machine."""
    if not find_checkpoint(checkpoint):
        raise UsageError(missing(model, checkpoint))


def find_checkpoint(checkpoint: str) -> Path | None:
    """Return the folder a checkpoint's name stands for, where it is there."""
    folder = checkpoint_folder(checkpoint)
    return folder if folder is not None and is_checkpoint(folder) else None


def is_checkpoint(folder: Path) -> bool:
    """Tell whether a folder looks like a checkpoint's."""
    return (folder / "config.json").is_file()


def missing(model: ModelShort, checkpoint: str) -> str:
    """Return the sentence that says that a checkpoint is not there, and what to do."""
    if not is_repository(checkpoint) or Path(checkpoint).is_dir():
        return f"there is no checkpoint in {checkpoint} (no config.json): choose another --checkpoint"
    is_usual = checkpoint == Settings().checkpoints[model]
    return (
        f"the checkpoint {checkpoint} is not (or not whole) in the local Hugging Face cache: "
        f"gptoss pull {model if is_usual else checkpoint}"
    )

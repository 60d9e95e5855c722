"""Whether the checkpoints are there and whole, and whether state and logs can be written.

Stage: `gptoss doctor`.
Owns: what is said of each.
Does not know: what makes a checkpoint whole (doctor_checkpoint.py).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from gptoss_backend.hub import is_repository
from gptoss_backend.model_names import ModelShort
from gptoss_client.checkpoint import DEMO, missing
from gptoss_client.doctor_checkpoint import BrokenCheckpointError, whole_checkpoint_bytes
from gptoss_client.doctor_examination import Examination
from gptoss_client.doctor_findings import Finding, Level, problem_of

_GB: Final = 10**9
_LOW_DISK_BYTES: Final = 1 * 2**30  # logs and kept responses


def examine_checkpoint(examination: Examination, model: ModelShort) -> Finding:
    """See that a model's checkpoint is there and whole."""
    name, folder = examination.settings.checkpoints[model], examination.folders[model]
    if folder is None and model == DEMO:
        return Finding("checkpoint", Level.OK, f"{name} will be made at the first start")
    if folder is None:
        return problem_of(missing(model, name), "checkpoint")
    try:
        size = whole_checkpoint_bytes(folder)
    except BrokenCheckpointError as error:
        remedy = f"gptoss pull {name}" if is_repository(name) else "copy or make it anew"
        return Finding("checkpoint", Level.PROBLEM, str(error), remedy)
    return Finding("checkpoint", Level.OK, f"{folder}, whole, {size / _GB:.1f} GB of weights")


def examine_disk(root: Path) -> Finding:
    """See that the run directory, or where it would be made, can be written to and has room."""
    place = next(folder for folder in (root, *root.parents) if folder.exists())
    if not os.access(place, os.W_OK):
        return Finding("disk", Level.PROBLEM, f"{place} cannot be written to", "choose another --run-dir")
    free = shutil.disk_usage(place).free
    words = f"{free / _GB:.1f} GB free for state and logs in {root}"
    if free < _LOW_DISK_BYTES:
        return Finding("disk", Level.WARNING, words, "make room, or choose another --run-dir")
    return Finding("disk", Level.OK, words)

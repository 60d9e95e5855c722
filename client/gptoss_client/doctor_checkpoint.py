"""Whether a checkpoint's folder is whole, told from its index and the headers of its files: no weight is read.

Stage: `gptoss doctor`.
Owns: what a whole folder is, and the sentence for what is wrong with one.
Does not know: which files count (the engine's checkpoint_files), what the weights are for. (The engine looks at shapes
and names again when it loads.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gptoss_backend.engine.checkpoint_files import read_header, weight_map
from gptoss_backend.engine.errors import CheckpointError


class BrokenCheckpointError(Exception):
    """A checkpoint's folder is not whole. The message names the file at fault."""


def whole_checkpoint_bytes(folder: Path) -> int:
    """Return the size of a checkpoint's weights. Raises BrokenCheckpointError where the folder is not whole."""
    kind = _document(folder / "config.json").get("model_type")
    if kind != "gpt_oss":
        raise BrokenCheckpointError(f"{folder / 'config.json'} is of model type {kind!r}, not 'gpt_oss'")
    try:
        return sum(_whole_bytes(folder / file, tensors) for file, tensors in _tensors_by_file(folder).items())
    except CheckpointError as error:
        raise BrokenCheckpointError(str(error)) from error


def _tensors_by_file(folder: Path) -> dict[str, list[str]]:
    """Return what each of the files that the engine reads is to hold. Raises BrokenCheckpointError, CheckpointError."""
    files: dict[str, list[str]] = {}
    for tensor, file in weight_map(folder).items():
        files.setdefault(file, []).append(tensor)
    if not files:
        raise BrokenCheckpointError(f"{folder} is to hold no tensors")
    return files


def _whole_bytes(path: Path, tensors: list[str]) -> int:
    """Return a file's size, after seeing that it has these tensors and is as long as its header says.

    Raises BrokenCheckpointError, CheckpointError.
    """
    header, data_at = read_header(path)
    try:
        end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        size, expected = path.stat().st_size, data_at + end
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise BrokenCheckpointError(f"{path} has no readable safetensors header") from error
    if size != expected:
        raise BrokenCheckpointError(f"{path} has {size:,} bytes, its header promises {expected:,}")
    if absent := sorted(set(tensors) - set(header)):
        raise BrokenCheckpointError(f"{path} lacks the tensor {absent[0]}, which the index promises")
    return size


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BrokenCheckpointError(f"{path} is missing") from error
    except (OSError, ValueError) as error:
        raise BrokenCheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise BrokenCheckpointError(f"{path} does not hold a JSON object")
    return document

"""Whether a checkpoint's folder is whole, told from its index and the headers of its files: no weight is read.

Stage: `gptoss doctor`.
Owns: what a whole folder is, and the sentence for what is wrong with one.
Does not know: what the weights are for. (The engine looks at shapes and names again when it loads.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

_INDEX: Final = "model.safetensors.index.json"
_SINGLE: Final = "model.safetensors"
_MOST_HEADER_BYTES: Final = 100_000_000  # the format's own limit


class BrokenCheckpointError(Exception):
    """A checkpoint's folder is not whole. The message names the file at fault."""


def whole_checkpoint_bytes(folder: Path) -> int:
    """Return the size of a checkpoint's weights. Raises BrokenCheckpointError where the folder is not whole."""
    kind = _document(folder / "config.json").get("model_type")
    if kind != "gpt_oss":
        raise BrokenCheckpointError(f"{folder / 'config.json'} is of model type {kind!r}, not 'gpt_oss'")
    total = 0
    for file, tensors in _tensors_by_file(folder).items():
        header = _header(folder / file)
        if absent := sorted(set(tensors) - set(header)):
            raise BrokenCheckpointError(f"{folder / file} lacks the tensor {absent[0]}, which the index promises")
        total += (folder / file).stat().st_size
    return total


def _tensors_by_file(folder: Path) -> dict[str, list[str]]:
    if not (folder / _INDEX).exists():
        return {_SINGLE: []}
    weight_map = _document(folder / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BrokenCheckpointError(f"{folder / _INDEX} holds no weight_map")
    files: dict[str, list[str]] = {}
    for tensor, file in weight_map.items():
        files.setdefault(str(file), []).append(tensor)
    return files


def _header(path: Path) -> dict[str, Any]:
    """Return a safetensors file's header, after seeing that the file is as long as the header says."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(min(length, _MOST_HEADER_BYTES))
        header = json.loads(text)
        end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        size, expected = path.stat().st_size, 8 + length + end
    except FileNotFoundError as error:
        raise BrokenCheckpointError(f"{path} is missing") from error
    except OSError as error:
        raise BrokenCheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise BrokenCheckpointError(f"{path} has no readable safetensors header") from error
    if size != expected:
        raise BrokenCheckpointError(f"{path} has {size:,} bytes, its header promises {expected:,}")
    return header if isinstance(header, dict) else {}


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

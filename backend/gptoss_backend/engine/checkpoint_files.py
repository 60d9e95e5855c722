"""What lies in a checkpoint's folder: which file holds which tensor, and whether it is a checkpoint at all.

Stage: start-up, and before it.
Owns: the names of files, which of them count, what to do about other layouts than Hugging Face's.
Does not know: torch (the client asks here before anything is started), shapes, weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from gptoss_backend.engine.errors import CheckpointError

INDEX_FILE: Final = "model.safetensors.index.json"
SINGLE_FILE: Final = "model.safetensors"
EMBEDDING: Final = "model.embed_tokens.weight"
UNEMBEDDING: Final = "lm_head.weight"
# safetensors takes no header above this
_MOST_HEADER_BYTES: Final = 100_000_000
_TELLING_BYTES: Final = 4096
_PUBLISHED: Final = "the layout of openai/gpt-oss-20b on Hugging Face"


def weight_map(folder: Path) -> dict[str, str]:
    """Map each tensor to its file, whether that is there or not. Raises CheckpointError."""
    if passes_over_index(folder) or not (folder / INDEX_FILE).exists():
        return dict.fromkeys(_names_in(folder / SINGLE_FILE), SINGLE_FILE)
    return _read_index(folder / INDEX_FILE)


def passes_over_index(folder: Path) -> bool:
    """Tell whether a single file counts though there is an index: a whole model, saved over a download in parts.

    So does transformers read such a folder.
    """
    if not (folder / INDEX_FILE).exists() or not (folder / SINGLE_FILE).exists():
        return False
    try:
        return EMBEDDING in _names_in(folder / SINGLE_FILE)
    except CheckpointError:
        return False


def has_packed_experts(folder: Path) -> bool:
    """Tell whether the experts of a checkpoint are in MXFP4, by its files. Raises CheckpointError."""
    return any_packed(weight_map(folder))


def any_packed(names: Iterable[str]) -> bool:
    """Tell whether experts in MXFP4 are among these tensors."""
    return any(name.endswith("_blocks") for name in names)


def check_kind(folder: Path) -> None:
    """Raise CheckpointError where a folder is known to hold something else, with what to do about it."""
    if any((folder / name).exists() for name in (INDEX_FILE, SINGLE_FILE)) and not _is_original(folder):
        return
    if reason := next(_other_kinds(folder), None):
        raise CheckpointError(f"{folder} {reason}")


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return a safetensors file's header, and at which byte its data begin. Raises CheckpointError."""
    if not path.exists():
        raise CheckpointError(f"the checkpoint shard {path} is missing")
    try:
        with path.open("rb") as file:
            num_bytes = int.from_bytes(file.read(8), "little")
            header: Any = json.loads(file.read(num_bytes)) if num_bytes <= _MOST_HEADER_BYTES else None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the checkpoint shard {path} is corrupt or cut short: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"the checkpoint shard {path} is corrupt or cut short: it has no header")
    return header, 8 + num_bytes


def fingerprint(folder: Path) -> str:
    """Return what tells a checkpoint from others of the same sizes, by how each of its tensors begins.

    However they are divided over files: hosts that compute one model together may have it from different places.
    Raises CheckpointError.
    """
    digest = blake2b(digest_size=16)
    begins: dict[str, tuple[str, int, dict[str, Any]]] = {}
    for file in set(weight_map(folder).values()):
        header, data = read_header(folder / file)
        begins |= {name: (file, data, told) for name, told in header.items() if name != "__metadata__"}
    for name, (file, data, told) in sorted(begins.items()):
        start, end = told["data_offsets"]
        with (folder / file).open("rb") as opened:
            opened.seek(data + start)
            digest.update(f"{name} {told['dtype']} {told['shape']}".encode())
            digest.update(opened.read(min(_TELLING_BYTES, end - start)))
    return digest.hexdigest()


def _other_kinds(folder: Path) -> Iterator[str]:
    if (folder / "adapter_config.json").exists():
        yield "holds a LoRA adapter: merge it into its model first (PEFT's merge_and_unload), and give that folder"
    if _is_original(folder):
        above = "the folder above" if folder.name == "original" else "the folder that it came in"
        yield f"is in OpenAI's original layout: give {above}, which has {_PUBLISHED}"
    if (folder / "model.bin").exists() and not (folder / "config.json").exists():
        yield f"holds a model for Apple's Metal: give a folder in {_PUBLISHED}"
    if next(folder.glob("*.gguf"), None) is not None:
        yield f"holds GGUF files, as llama.cpp reads them: give a folder in {_PUBLISHED}"


def _is_original(folder: Path) -> bool:
    return (folder / "dtypes.json").exists() and not (folder / INDEX_FILE).exists()


def _names_in(path: Path) -> list[str]:
    """Return the tensors of a safetensors file."""
    header, _ = read_header(path)
    return [name for name in header if name != "__metadata__"]


def _read_index(path: Path) -> dict[str, str]:
    try:
        files: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        is_map = all(isinstance(file, str) for file in files.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a readable shard index") from error
    if not is_map:
        raise CheckpointError(f"{path} is not a readable shard index: a tensor's file is no name")
    return files

"""Which folder a checkpoint's name means, and which files of a Hugging Face repository make one.

Stage: before a server starts, and its start. Owns: the choice of files, asked for in the same words by whoever fills
the cache and whoever reads it: a snapshot counts as whole when it holds what the reader asks for.
Does not know: downloads, what is in the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

CHECKPOINT_FILES: Final = ("*.json", "*.safetensors")
# OpenAI's repositories repeat the weights in other layouts below original/ and metal/; our tokenizer is oss-harmony's
OTHER_FILES: Final = ("*/*", "tokenizer*", "special_tokens_map.json")


def is_repository(name: str) -> bool:
    """Tell whether a checkpoint's name is one of a repository, OWNER/NAME[@REVISION], rather than of a folder."""
    repository, _ = split_revision(name)
    return repository.count("/") == 1 and not repository.startswith((".", "/", "~")) and not repository.endswith("/")


def split_revision(name: str) -> tuple[str, str | None]:
    """Return a repository's name and the revision it is pinned to: a commit, tag or branch; None: the newest."""
    repository, _, revision = name.partition("@")
    return repository, revision or None


def checkpoint_folder(name: str) -> Path | None:
    """Return the folder that a checkpoint's name means, where it is there: its own, or one of the local cache."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    return cached_checkpoint(name) if is_repository(name) else None


def cached_checkpoint(name: str) -> Path | None:
    """Return the folder of the local Hugging Face cache that holds a repository's checkpoint whole, if there is one."""
    from huggingface_hub import snapshot_download  # here: it takes a moment, and most starts need none of it
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    repository, revision = split_revision(name)
    try:
        folder = snapshot_download(
            repository,
            revision=revision,
            local_files_only=True,
            allow_patterns=list(CHECKPOINT_FILES),
            ignore_patterns=list(OTHER_FILES),
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return Path(folder)

"""`gptoss key`: make an API key.

Stage: any time; a running server takes the key up by itself.
Owns: how a key gets into the file of keys.
Does not know: the file's format, who reads it.
"""

from __future__ import annotations

import os
from pathlib import Path

from gptoss_backend.keys import KeyFormatError, new_key
from gptoss_client.errors import CommandError, UsageError


def add_key(path: Path | None, name: str, max_concurrency: int | None = None, *, is_urgent: bool = False) -> str:
    """Add a new key to the file, made where there is none and then readable by its owner only; return the key.

    Raises UsageError, and CommandError where the file cannot be written.
    """
    if path is None:
        raise UsageError("no file of keys is set: name one with --keys, and as adapter.keys_path for the server")
    try:
        key, kept = new_key(name, max_concurrency, is_urgent=is_urgent)
    except KeyFormatError as error:
        raise UsageError(str(error)) from error
    try:
        _append(path, kept.line())
    except OSError as error:
        raise CommandError(f"cannot write the file of keys {path}: {error.strerror}") from error
    return key


def _append(path: Path, line: str) -> None:
    """Add a line in one write, so that a server that reads at the same moment sees all of it or nothing."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        ended = not size or os.pread(descriptor, 1, size - 1) == b"\n"
        os.write(descriptor, f"{'' if ended else chr(10)}{line}".encode())
    finally:
        os.close(descriptor)

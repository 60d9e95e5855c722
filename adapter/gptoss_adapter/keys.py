"""API keys: who is asking.

Stage: 1 route.
Owns: the keys in force, their reload, the comparison.
Does not know: which paths need a key, how much one may ask for.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
from pathlib import Path
from typing import Final

from gptoss_adapter.errors import InvalidKeyError
from gptoss_backend.keys import ApiKey, KeyFormatError, digest_of, parse_keys

logger = logging.getLogger(__name__)

WATCH_PERIOD_S: Final = 0.25
_SCHEME: Final = "bearer"

_Version = tuple[int, int, int] | None


class KeyFileError(Exception):
    """The file of keys cannot be read or is malformed. The message is a sentence."""


class KeyFile:
    """The keys of a file, as they were when it last was well formed."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises KeyFileError."""
        self._path = path
        self._version = _version_of(path)
        self._seen = self._version
        self._keys = _read(path)

    def check(self, authorization: str | None) -> ApiKey:
        """Return the key that a request's Authorization header names. Raises InvalidKeyError."""
        scheme, _, offered = (authorization or "").partition(" ")
        if scheme.lower() != _SCHEME or not offered.strip():
            raise InvalidKeyError("Give your API key in the header 'Authorization: Bearer KEY'.")
        # HTTP's headers are Latin-1: what was not ASCII is some other string here, and no key of ours
        digest = digest_of(offered.strip().encode("latin-1", "replace"))
        found = None
        for key in self._keys:  # all of them, whether or not one was found: time tells nothing
            if hmac.compare_digest(key.digest, digest):
                found = key
        if found is None:
            raise InvalidKeyError("The API key is not one of this server's.", was_offered=True)
        return found

    async def watch(self) -> None:
        """Take over every change of the file, for ever. Requests meanwhile see the earlier keys, then the new ones."""
        while True:
            await asyncio.sleep(WATCH_PERIOD_S)
            self.refresh()

    def refresh(self) -> None:
        """Look at the file once; read it if it has changed and has then been left alone since the last look.

        An editor empties a file and then writes it: what is between is not taken for a change.
        """
        version, self._seen = self._seen, _version_of(self._path)
        if self._seen != version or self._seen == self._version:
            return
        self._version = self._seen
        try:
            self._keys = _read(self._path)
        except KeyFileError as error:
            logger.error("%s; the earlier keys stay in force", error)
        else:
            logger.info("read %d API keys from %s", len(self._keys), self._path)


def _version_of(path: Path) -> _Version:
    """Return what changes when the file does; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path) -> tuple[ApiKey, ...]:
    try:
        return parse_keys(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KeyFileError(f"cannot read the API keys of {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise KeyFileError(f"the API keys of {path} are not UTF-8") from error
    except KeyFormatError as error:
        raise KeyFileError(f"cannot take the API keys of {path}: {error}") from error

"""API keys as they are kept: hashed, one a line.

Stage: `gptoss key` writes them, the adapter reads them.
Owns: what a key looks like, the file's format.
Does not know: when the file is read, what a key opens.

A line is `NAME SHA256 [MAX_CONCURRENCY] [urgent]`, `#` begins a comment. The hash is a plain SHA-256. scrypt and bcrypt
are slow on purpose, to make guessing a person's password expensive: tens of milliseconds, which every request would
pay. A key is 256 random bits, which nobody guesses at any speed.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Final

_PREFIX: Final = "sk-gptoss-"
"""Lets scanners for leaked secrets know one."""
_RANDOM_BYTES: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}")
_URGENT: Final = "urgent"
_COUNT: Final = re.compile(r"[1-9][0-9]{0,8}")


class KeyFormatError(ValueError):
    """A key's name or the file of keys is malformed. The message is a sentence; it quotes no line."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key. Several keys of one name, as when one takes over from another, count as one client."""

    name: str
    digest: bytes
    """SHA-256 of the key."""
    max_concurrency: int | None = None
    """Answers at once; None: the server's setting."""
    is_urgent: bool = False
    """May ask for a priority before the others'."""

    def line(self) -> str:
        """Return the key's line, with its end."""
        limit = "" if self.max_concurrency is None else f" {self.max_concurrency}"
        return f"{self.name} {self.digest.hex()}{limit}{f' {_URGENT}' if self.is_urgent else ''}\n"


def new_key(name: str, max_concurrency: int | None = None, *, is_urgent: bool = False) -> tuple[str, ApiKey]:
    """Return a new key, to be told once, and what is kept of it. Raises KeyFormatError for the name."""
    if not _NAME.fullmatch(name):
        raise KeyFormatError(f"a key's name is 1 to 64 letters, digits, '.', '_', '@' or '-', not {name!r}")
    key = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    return key, ApiKey(name, digest_of(key.encode()), max_concurrency, is_urgent)


def digest_of(key: bytes) -> bytes:
    """Return what is kept in a key's place."""
    return hashlib.sha256(key).digest()


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """Return the keys of a file. Raises KeyFormatError, also where there is none: the file may be half written."""
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.partition("#")[0].split()
        if fields:
            keys.append(_key(fields, number))
    if not keys:
        raise KeyFormatError("it holds no key")
    return tuple(keys)


def _key(fields: list[str], number: int) -> ApiKey:
    is_urgent = len(fields) > 2 and fields[-1] == _URGENT
    fields = fields[:-1] if is_urgent else fields
    name, digest, limit = (*fields, "", "")[:3]
    if len(fields) > 3 or not _NAME.fullmatch(name):
        raise KeyFormatError(f"line {number} is not `NAME SHA256 [MAX_CONCURRENCY] [urgent]`")
    if not _DIGEST.fullmatch(digest):
        raise KeyFormatError(f"line {number} does not hold a SHA-256 in 64 hexadecimal digits behind the name")
    if limit and not _COUNT.fullmatch(limit):
        raise KeyFormatError(f"line {number} does not end in a number of answers at once, 1 or more")
    return ApiKey(name, bytes.fromhex(digest), int(limit) if limit else None, is_urgent)

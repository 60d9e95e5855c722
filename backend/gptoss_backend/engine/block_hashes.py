"""What tells one beginning of a prompt from another in the KV cache.

Owns: the hash of a block, which covers all before it. Does not know: blocks of memory, who holds them.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gptoss_backend.engine.sequence import TokenIds

_DIGEST_BYTES = 16


class BlockHashes(list[bytes]):
    """The hashes of a sequence's leading whole blocks, as far as they are known."""

    def __init__(self, salt: str | None = None) -> None:
        """salt: whose sequences share blocks with those of the same one only; None: with all that have none."""
        super().__init__()
        self._first = b"" if salt is None else _hash(salt.encode(), of=b"salt")

    def extend_over(self, token_ids: TokenIds, block_size: int, num_blocks: int | None = None) -> None:
        """Extend to one hash for each whole block of `token_ids`, or for `num_blocks`; known ones cost nothing."""
        num_whole = len(token_ids) // block_size if num_blocks is None else num_blocks
        previous = self[-1] if self else self._first
        for start in range(len(self) * block_size, num_whole * block_size, block_size):
            previous = _hash(previous + array("i", token_ids[start : start + block_size]).tobytes(), of=b"block")
            self.append(previous)


def _hash(content: bytes, *, of: bytes) -> bytes:
    """of: what is hashed: a salt that spells a block's tokens is no such block."""
    # a cryptographic hash: with a weaker one, a crafted prompt could read another user's cache
    return blake2b(content, digest_size=_DIGEST_BYTES, person=of).digest()

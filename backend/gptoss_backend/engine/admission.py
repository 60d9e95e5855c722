"""Why a sequence that waits is not let in yet: there is no room, or another computes what it needs.

Stage 4 of a request: schedule. Owns: what has to have changed before it is worth another look.
Does not know: who waits, in which order.
"""

from __future__ import annotations

from dataclasses import dataclass

from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class NoRoom:
    """The last sequence for which the cache had no room."""

    sequence: Sequence
    num_closes: int
    """The cache's, then."""
    next_hash: bytes | None
    """Of its first block that was not there; None where all were."""

    @classmethod
    def of(cls, sequence: Sequence, cache: KVCache) -> NoRoom:
        """Note that it has been refused."""
        hashes = sequence.block_hashes
        return cls(sequence, cache.num_closes, _at(hashes, cache.num_findable(hashes)))

    def stands(self, sequence: Sequence, cache: KVCache) -> bool:
        """Return whether it would be refused again: nobody's blocks came back, and no more of it is there."""
        if self.sequence is not sequence or self.num_closes != cache.num_closes:
            return False
        return self.next_hash is None or not cache.num_findable([self.next_hash])


@dataclass(frozen=True, slots=True)
class SharedBlock:
    """The block that a prompt under way is computing.

    The copies of a request with n > 1, and conversations under one system prompt, wait for the first of them and find
    its blocks in the cache.
    """

    rank: tuple[float, int]
    index: int
    hash: bytes | None
    """Of all up to the block's end; None where it is not whole."""

    @classmethod
    def of(cls, leader: Sequence, block_size: int) -> SharedBlock:
        """Return what a prompt is at."""
        index = leader.num_computed // block_size
        return cls(leader.rank, index, _at(leader.block_hashes, index))

    def will_serve(self, sequence: Sequence) -> bool:
        """Return whether a less urgent prompt begins with the block, too."""
        is_known = self.hash is not None and _at(sequence.block_hashes, self.index) == self.hash
        return is_known and self.rank < sequence.rank


def _at(hashes: list[bytes], index: int) -> bytes | None:
    return hashes[index] if index < len(hashes) else None

"""Which replica a prompt goes to: the one that holds the beginning of its conversation, unless it has too much to do.

Stage: 3 prompt and 4 schedule, seen from the adapter.
Owns: what names a conversation, rendezvous hashing, the bound on a replica's load.
Does not know: gRPC; which replicas there are; how they do.

By prompt and addresses alone, but for the load: several adapters choose alike without a word to each other, and after
a restart as before. A replica that comes or goes moves only those conversations that it gets or had.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Final

from gptoss_adapter.inference import PromptIds
from gptoss_backend.harmony.vocabulary import END, START

USER: Final = 1428
"""The token that, after START, begins a user's message."""
OPENING_TOKENS: Final = 256
"""Of the first user message, so many count: questions on one long document go to the replica that has read it."""
MAX_OVER_MEAN: Final = 1.25
ALWAYS_ALLOWED: Final = 2
"""A replica takes so many requests more than its bounded share of those in flight: few at once cost it next to nothing,
a prompt computed anew does."""


def conversation_of(prompt: PromptIds) -> bytes:
    """Return what names the prompt's conversation: its ids to the end of the first user message.

    They stay the same while the conversation grows. What comes before that message (date, instructions, tools) is often
    the same in all of an application's conversations. Of a prompt without a user message: its first ids.
    """
    ids = array("i", prompt.raw)
    return blake2b(ids[: _opening_end(ids)].tobytes(), digest_size=16).digest()


def _opening_end(ids: array[int]) -> int:
    begins = _first_user_message(ids)
    longest = min(len(ids), begins + OPENING_TOKENS)
    try:
        return ids.index(END, begins, longest)
    except ValueError:
        return longest


def _first_user_message(ids: array[int]) -> int:
    at = -1
    try:
        while True:
            at = ids.index(START, at + 1)
            if ids[at + 1 : at + 2] == array("i", (USER,)):
                return at
    except ValueError:
        return 0


def choose(conversation: bytes, in_flight: Mapping[str, int]) -> str:
    """Return the replica that a request of `conversation` goes to.

    in_flight: the requests under way at each replica that can serve it, by address; at least one.
    """
    share = (sum(in_flight.values()) + 1) / len(in_flight)
    bound = MAX_OVER_MEAN * share + ALWAYS_ALLOWED
    able = [address for address, count in in_flight.items() if count + 1 <= bound]
    return max(able, key=lambda address: _score(conversation, address))


def rendering(chat: bytes, addresses: Iterable[str]) -> str:
    """Return the replica that is to render a chat: it has it in its response cache, if any of them has."""
    digest = blake2b(chat, digest_size=16).digest()
    return max(addresses, key=lambda address: _score(digest, address))


def _score(key: bytes, address: str) -> bytes:
    return blake2b(address.encode(), key=key, digest_size=8).digest()

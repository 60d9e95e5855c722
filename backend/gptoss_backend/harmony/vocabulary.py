"""The Harmony vocabulary: the special tokens by name, and token ids → bytes → text.

Stage: 3 prompt and 6 detokenize.
Owns: the process's one oss-harmony encoding, the ids of the special tokens, how many ids there are, incremental UTF-8.
Does not know: messages, channels, Triton.

Importing this is cheap; the encoding (0.2 s, from the wheel, no network) loads on first use.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from openai_harmony import HarmonyEncoding

STARTOFTEXT: Final = 199_998
ENDOFTEXT: Final = 199_999
RETURN: Final = 200_002
CONSTRAIN: Final = 200_003
CHANNEL: Final = 200_005
START: Final = 200_006
END: Final = 200_007
MESSAGE: Final = 200_008
CALL: Final = 200_012

ENDS: Final = frozenset({END, RETURN, CALL, ENDOFTEXT})
"""Each ends a message's text."""

FIRST_SPECIAL: Final = STARTOFTEXT
"""Every id from here on is a special token; those without a name above are reserved."""
NUM_TOKENS: Final = 201_089
"""Ids oss-harmony knows."""
VOCAB_SIZE: Final = 201_088
"""Ids the published checkpoints know, whose embeddings have a row for each."""


@cache
def encoding() -> HarmonyEncoding:
    """Return the encoding of the GPT-OSS models. The first call blocks for about 0.2 s."""
    from openai_harmony import HarmonyEncodingName, load_harmony_encoding

    return load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)


# Text of a language keeps to a few thousand tokens. With room for all, hours of many languages would hold 30 MB more.
@lru_cache(maxsize=16_384)
def token_bytes(token_id: int) -> bytes:
    """Return the bytes a token stands for: part of a character, or several. An id outside the vocabulary is b""."""
    if not 0 <= token_id < NUM_TOKENS:
        return b""
    raw: bytes = encoding()._inner.decode_bytes([token_id])
    return raw


class TextDecoder:
    """Token ids → text, piece by piece; the pieces together are the text decoded as a whole."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_ids: Iterable[int]) -> str:
        """Return the text that is now certain; a character not yet whole is held back: an emoji spans 3 tokens."""
        return self.push_bytes(b"".join(map(token_bytes, token_ids)))

    def push_bytes(self, raw: bytes) -> str:
        """As `push`, for bytes."""
        return self._utf8.decode(raw)

    def finish(self) -> str:
        """Return what was held back, U+FFFD for a cut character. The decoder is then as new."""
        return self._utf8.decode(b"", final=True)

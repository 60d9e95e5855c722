"""From the prompts of /v1/completions and /tokenize to token ids.

Stage: 3 prompt, where there is no chat.
Owns: how text becomes tokens here: as text, whatever it says.
Does not know: Harmony's messages, Triton.
"""

from __future__ import annotations

import asyncio
import re
from array import array
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import nullcontext
from typing import Final

from gptoss_adapter.errors import ContextLengthExceededError
from gptoss_adapter.inference import PromptIds
from gptoss_adapter.logprobs import text_name
from gptoss_adapter.schemas.completions import CompletionRequest
from gptoss_backend.harmony.runs import cut_long_runs, word_end_before
from gptoss_backend.harmony.vocabulary import encoding, token_bytes

_PIECE_CHARS: Final = 1_500
"""What takes about 0.2 ms, for which every stream of this process waits."""
_MOST_PIECE_CHARS: Final = 16 * 1024
"""A piece of more has no break, as the tokenizer knows breaks: `"!\n/" * 6000`. It is cut all the same."""
_PIECE_TOKENS: Final = 4_096
"""Of those that are read back."""
# White space that ends no line, as the tokenizer's pattern knows it: Python's \s has four separators more.
_SPACE: Final = "\t\v\f \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_BREAKS: Final = re.compile(rf"(?<=\S)(?=[{_SPACE}])|(?<=[^\W_])(?=[\r\n])|(?<=[\r\n])(?=[^\s/])")
"""Where the tokenizer breaks in any script: space begins its pre-token, or follows other space; a line's end belongs to
what is before it only where that is punctuation; and behind one only a slash goes on (o200k's pattern)."""


async def raw_prompts(body: CompletionRequest, turns: asyncio.Lock, max_tokens: int | None = None) -> list[list[int]]:
    """Return the token ids of each prompt. turns: as in `encode_text`.

    Raises ContextLengthExceededError for one that leaves no room for an answer in `max_tokens`, without reading all of
    it.
    """
    ids = [await encode_text(one, turns, max_tokens) if isinstance(one, str) else one for one in body.prompts]
    if max_tokens is not None and (longest := max(map(len, ids), default=0)) >= max_tokens:
        raise ContextLengthExceededError(
            f"The prompt has {longest} tokens or more, the context holds {max_tokens}.", param="prompt"
        )
    return ids


async def encode_text(text: str, turns: asyncio.Lock | None = None, most: int | None = None) -> list[int]:
    """Tokenise text; nothing in it becomes a special token. Others get their turn while a long one is read.

    turns: held for each piece, so that of all who read one reads between two turns of the others. most: tokens from
    which on the rest does not matter.
    """
    ids: list[int] = []
    for piece in _pieces(text):
        for part in cut_long_runs(piece):
            async with turns or nullcontext():
                ids += encoding().encode(part, disallowed_special=())
                await asyncio.sleep(0)
            if most is not None and len(ids) >= most:
                return ids
    return ids


def _pieces(text: str) -> Iterator[str]:
    """Cut a long text where the tokenizer breaks anyway."""
    start = 0
    while len(text) - start > _PIECE_CHARS:
        limit = min(start + _MOST_PIECE_CHARS, len(text))
        found = _BREAKS.search(text, start + _PIECE_CHARS, limit)
        end = found.start() if found else word_end_before(text, limit)
        yield text[start:end]
        start = end
    yield text[start:]


async def decode_text(token_ids: Sequence[int]) -> str:
    """Return the tokens' text, special tokens by name, U+FFFD for what is no character. Others get their turn, too."""
    raw = [token_bytes(token) async for token in _in_turns(token_ids)]
    return b"".join(raw).decode(errors="replace")


async def text_names(token_ids: Sequence[int]) -> list[str]:
    """Return each token's `text_name`. Others get their turn, too."""
    return [text_name(token) async for token in _in_turns(token_ids)]


async def _in_turns(token_ids: Sequence[int]) -> AsyncIterator[int]:
    """Yield the tokens; every now and then others get their turn."""
    for place, token in enumerate(token_ids, start=1):
        yield token
        if place % _PIECE_TOKENS == 0:
            await asyncio.sleep(0)


def prompt_ids(token_ids: Sequence[int]) -> PromptIds:
    """Return the ids as they travel."""
    return PromptIds(array("i", token_ids).tobytes())


def token_ids(prompt: PromptIds) -> list[int]:
    """Read them back."""
    return array("i", prompt.raw).tolist()

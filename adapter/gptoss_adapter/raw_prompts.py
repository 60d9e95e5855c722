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
from typing import Final

from gptoss_adapter.inference import PromptIds
from gptoss_adapter.logprobs import text_name
from gptoss_adapter.schemas.completions import CompletionRequest
from gptoss_backend.harmony.runs import cut_long_runs
from gptoss_backend.harmony.vocabulary import encoding, token_bytes

_PIECE_CHARS: Final = 32_768
"""What takes about 3 ms, for which every stream of this process waits."""
_PIECE_TOKENS: Final = 4_096
"""As long."""
_BEFORE_SPACES: Final = re.compile(r"(?<=\S)(?= )")
"""Where the tokenizer breaks in any script: a space is the first character of its pre-token, or follows other space."""


async def raw_prompts(body: CompletionRequest) -> list[list[int]]:
    """Return the token ids of each prompt."""
    return [await encode_text(prompt) if isinstance(prompt, str) else prompt for prompt in body.prompts]


async def encode_text(text: str) -> list[int]:
    """Tokenise text; nothing in it becomes a special token. Others get their turn while a long one is read."""
    ids: list[int] = []
    for piece in _pieces(text):
        for part in cut_long_runs(piece):
            ids += encoding().encode(part, disallowed_special=())
            await asyncio.sleep(0)
    return ids


def _pieces(text: str) -> Iterator[str]:
    """Cut a long text where the tokenizer breaks anyway."""
    start = 0
    while (end := _BEFORE_SPACES.search(text, start + _PIECE_CHARS)) is not None:
        yield text[start : end.start()]
        start = end.start()
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

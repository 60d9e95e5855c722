"""How log probabilities are told, in the shape of chats and in the older one of completions.

Stage: 7.
Owns: how a token is named; the two shapes.
Does not know: which tokens are told of (content.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from gptoss_adapter.content import ContentToken
from gptoss_adapter.schemas.answers import Alternative, TextLogprobs, TokenLogprobs
from gptoss_backend.harmony.vocabulary import token_bytes

_LEAST: Final = -9999.0
"""JSON has no infinity; this is OpenAI's word for it."""


def chat_logprobs(tokens: Iterable[ContentToken]) -> list[TokenLogprobs]:
    """Return the entries of a choice's `logprobs.content`."""
    return [
        TokenLogprobs(
            **_named(token.scored.token_id, token.scored.logprob),
            top_logprobs=[Alternative(**_named(*one)) for one in token.scored.top],
        )
        for token in tokens
    ]


def text_logprobs(tokens: Iterable[ContentToken], offset: int = 0) -> TextLogprobs:
    """Return a text choice's `logprobs`. offset: characters before the text."""
    tokens = list(tokens)
    return TextLogprobs(
        tokens=[text_name(token.scored.token_id) for token in tokens],
        token_logprobs=[finite(token.scored.logprob) for token in tokens],
        top_logprobs=[
            {text_name(one): finite(logprob) for one, logprob in (*token.scored.top, _itself(token))}
            for token in tokens
        ],
        text_offset=[offset + token.start for token in tokens],
    )


def text_name(token_id: int) -> str:
    """Return the token's text, or its bytes as `bytes:\\xf0\\x9f` where these are not whole characters."""
    raw = token_bytes(token_id)
    return raw.decode() if _is_whole(raw) else "bytes:" + _escaped(raw)


def _named(token_id: int, logprob: float) -> dict[str, Any]:
    raw = token_bytes(token_id)
    name = raw.decode() if _is_whole(raw) else _escaped(raw)
    return {"token": name, "bytes": list(raw), "logprob": finite(logprob)}


def _itself(token: ContentToken) -> tuple[int, float]:
    return token.scored.token_id, token.scored.logprob


def _is_whole(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _escaped(raw: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in raw)


def finite(logprob: float) -> float:
    """Return what JSON can say of it."""
    return max(logprob, _LEAST)

"""EVENT: what a generation tells beside its tokens, from its start to its end.

Stage: 5 step → 7 SSE.
Owns: the events, their order, log probabilities and why an answer ends.
Does not know: errors (errors.py), which end a request without a last event.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, NamedTuple, TypeAlias

STOP_TOKENS: Final = frozenset({199_999, 200_002, 200_012})
"""`<|endoftext|>`, `<|return|>` and `<|call|>`: the `eos_token_id` of the published generation_config.json."""
MOST_TOLD_OF_PROMPT: Final = 2**18
"""Log probabilities of prompts that one request is told: some 8 MB of JSON."""


class FinishReason(StrEnum):
    """Why generation ended. An error ends a request with a Triton error instead, and has no finish reason."""

    STOP = "stop"
    """One of STOP_TOKENS, unless `ignore_eos`, or of `stop_token_ids`, which is the last of TOKEN_IDS; or the end of
    what a grammar holds the answer to, whose last token is any of `<|return|>`, `<|call|>` and `<|end|>`."""
    LENGTH = "length"
    """max_tokens, or the end of the context."""
    CANCELLED = "cancelled"


class Alternative(NamedTuple):
    """A token that might have come. On the wire a pair, to keep twenty of them short."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely the model thought a token.

    Natural logarithms over the model's own distribution, before bias, penalties, grammar, temperature and filters: what
    OpenAI reports and vLLM's `raw_logprobs`, its default. A token chosen after them may be less likely than every
    alternative.
    """

    token_id: int
    logprob: float
    top: tuple[Alternative, ...] = ()
    """The likeliest tokens, the likeliest first; as many as were asked for. May hold the token itself."""


@dataclass(frozen=True, slots=True)
class Started:
    """The first EVENT of a request: it left the queue and its prompt is being computed."""

    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens whose keys and values were still in the KV cache."""
    event: Literal["started"] = "started"
    logprobs: tuple[TokenLogprob, ...] = ()
    """Where asked for: one entry for each of this response's TOKEN_IDS. So in every event."""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """Where asked for: of the prompt's tokens but the first, in the event with the first of TOKEN_IDS."""


@dataclass(frozen=True, slots=True)
class Continued:
    """An EVENT between the first and the last: there is one only where logprobs were asked for."""

    logprobs: tuple[TokenLogprob, ...]
    event: Literal["continued"] = "continued"
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a request's time went inside the engine, in seconds."""

    queue_s: float
    """Submission to the first step that computed it."""
    first_token_s: float
    """Submission to its first token."""
    total_s: float


@dataclass(frozen=True, slots=True)
class Finished:
    """The last EVENT of a request."""

    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    """Tokens generated, the stop token included."""
    cached_tokens: int
    timings: Timings
    event: Literal["finished"] = "finished"
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


GenerationEvent: TypeAlias = Started | Continued | Finished

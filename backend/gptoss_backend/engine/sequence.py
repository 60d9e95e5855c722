"""A request inside the engine, and what the engine says of it.

Owns: `GenerationRequest` (in), `Sequence` (the state between), `TokenDelta` (out).
"""

from __future__ import annotations

import math
import secrets
import time
from array import array
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from gptoss_backend.contract import (
    Finished,
    FinishReason,
    GenerationErrorCode,
    SamplingParams,
    Started,
    Timings,
    TokenLogprob,
)
from gptoss_backend.engine.block_hashes import BlockHashes
from gptoss_backend.engine.edits import LogitEdits
from gptoss_backend.engine.grammar import TokenMask
from gptoss_backend.engine.speculation import PromptLookup
from gptoss_backend.engine.uniforms import UniformNumbers

TokenIds: TypeAlias = "list[int] | array[int]"
"""An array of C ints costs a quarter of a list, and the garbage collector need not look through it."""

# nearer to 0, dividing logits by it leaves float32's range; vLLM draws the same line
_LEAST_TEMPERATURE = 1e-5


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt and how to continue it. `request_id` is unique among those in the engine."""

    request_id: str
    prompt_ids: TokenIds
    sampling: SamplingParams
    mask: TokenMask | None = None
    """A grammar at the answer's beginning; the engine takes it over."""


# one for each sequence and step, and a tuple is made three times as fast as a frozen dataclass
class TokenDelta(NamedTuple):
    """What is new about one request after a step.

    The first delta of a request carries Started; the last one Finished, or `error`, a sentence, in its place.
    """

    request_id: str
    token_ids: tuple[int, ...] = ()
    event: Started | Finished | None = None
    error: str | None = None
    error_code: GenerationErrorCode | None = None
    """Where a client is to tell this error from others."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Where asked for: one for each of `token_ids`."""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """Where asked for, with the first token: one for each of the prompt's but the first."""

    @property
    def is_last(self) -> bool:
        """True where nothing more will be said of the request."""
        return self.error is not None or isinstance(self.event, Finished)


@dataclass(slots=True, eq=False)
class Sequence:
    """A request under way. Only the engine's thread touches it once it is submitted."""

    request: GenerationRequest
    max_tokens: int
    """The request's, cut to what the context leaves."""
    stop_tokens: frozenset[int] = frozenset()
    """Tokens at which the answer ends."""
    edits: LogitEdits | None = None
    """What the request changes in its logits; None: nothing, ever."""
    lookup: PromptLookup | None = None
    """Guesses the next tokens; None: nothing is guessed."""
    is_greedy: bool = field(init=False)
    block_hashes: BlockHashes = field(default_factory=BlockHashes, repr=False)
    """Of `token_ids`; the KV cache's."""
    token_ids: array[int] = field(init=False)
    """Prompt, then generated tokens."""
    rank: tuple[float, int] = (0.0, 0)
    """The scheduler's: the least is the most urgent."""
    num_computed: int = 0
    """Leading tokens whose keys and values are in the cache."""
    row: int = -1
    """Row of the cache's block tables while running."""
    num_launched: int = 0
    """Tokens behind these that steps under way compute; the scheduler's."""
    awaited_as: int | None = None
    """Which of the samples of the step under way will be the next token, where a step may go on with it already."""
    cached_tokens: int = 0
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list, repr=False)
    """Where asked for: of the prompt's tokens but the first, as far as they are computed."""
    uniforms: UniformNumbers = field(init=False, repr=False)
    submitted_s: float = field(default_factory=time.monotonic)
    deadline_s: float = math.inf
    """By when the request must have ended, on the clock of `submitted_s`."""
    scheduled_s: float | None = None
    first_token_s: float | None = None

    def __post_init__(self) -> None:
        self.token_ids = array("i", self.request.prompt_ids)
        sampling = self.request.sampling
        self.is_greedy = sampling.temperature < _LEAST_TEMPERATURE or sampling.top_k == 1
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        self.uniforms = UniformNumbers(seed)

    @property
    def has_row(self) -> bool:
        """True while it runs."""
        return self.row >= 0

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_ids)

    @property
    def num_generated(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - len(self.request.prompt_ids)

    @property
    def num_uncomputed(self) -> int:
        """Tokens to compute before the next one can be sampled: 1 while decoding, more in prefill."""
        return len(self.token_ids) - self.num_computed

    @property
    def num_taken(self) -> int:
        """Leading tokens that are computed or under way."""
        return self.num_computed + self.num_launched

    @property
    def num_pending(self) -> int:
        """Tokens that no step has taken yet, an awaited one among them; below 0 where guesses are under way."""
        return len(self.token_ids) + self.num_awaited - self.num_taken

    @property
    def num_awaited(self) -> int:
        """1 where a token is counted on that is not known yet, else 0."""
        return int(self.awaited_as is not None)

    @property
    def is_decoding(self) -> bool:
        """True where one token is to be computed before the next one can be sampled."""
        return self.num_uncomputed == 1 or self.awaited_as is not None

    def scored(self, num_tokens: int) -> range:
        """Return the positions among the next `num_tokens` whose logits are to be told of the prompt's next token."""
        if self.request.sampling.prompt_logprobs is None:
            return range(0)
        return range(self.num_taken, max(self.num_taken, min(self.num_taken + num_tokens, self.num_prompt - 1)))

    def uniform(self, ahead: int) -> float:
        """Return the number in [0, 1) by which the next token is drawn, or one `ahead` of it."""
        return self.uniforms.at(self.num_generated + ahead)

    def ends_at(self, token: int) -> bool:
        """Say whether nothing comes after `token`, the latest: it ends the answer, or its grammar failed."""
        edits = self.edits
        return token in self.stop_tokens or (edits is not None and (edits.is_finished or edits.fault is not None))

    def until_end(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """Return next tokens up to the one that ends the answer, if one of them does."""
        tokens = tokens[: self.max_tokens - self.num_generated]
        for count, token in enumerate(tokens, 1):
            if token in self.stop_tokens:
                return tokens[:count]
        return tokens

    def started(self) -> Started:
        """Return the first event."""
        return Started(prompt_tokens=self.num_prompt, cached_tokens=self.cached_tokens)

    def finished(self, reason: FinishReason) -> Finished:
        """Return the last event, with timings up to now."""
        total_s = time.monotonic() - self.submitted_s
        return Finished(
            finish_reason=reason,
            prompt_tokens=self.num_prompt,
            completion_tokens=self.num_generated,
            cached_tokens=self.cached_tokens,
            timings=Timings(
                queue_s=total_s if self.scheduled_s is None else self.scheduled_s - self.submitted_s,
                first_token_s=total_s if self.first_token_s is None else self.first_token_s - self.submitted_s,
                total_s=total_s,
            ),
        )

"""From a request to a sequence that the engine can run.

Stage 4 of a request: schedule. Owns: what only the model can tell to be wrong, and all that can be prepared before the
loop sees a request. Does not know: threads, queues, steps.
"""

from __future__ import annotations

import math
import secrets

from gptoss_backend.contract import MOST_TOLD_OF_PROMPT, STOP_TOKENS, SamplingParams
from gptoss_backend.engine.block_hashes import BlockHashes
from gptoss_backend.engine.cache_plan import CachePlan
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.edits import LogitEdits
from gptoss_backend.engine.errors import InvalidRequest, PromptTooLong
from gptoss_backend.engine.grammar import Grammar
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.sequence import GenerationRequest, Sequence
from gptoss_backend.engine.speculation import PromptLookup


class Intake:
    """Takes requests in, on any thread: however long a prompt is, the engine's loop does not wait for this."""

    def __init__(self, config: ModelConfig, plan: CachePlan, options: EngineOptions) -> None:
        """plan: of the cache that the sequences will be kept in."""
        self._vocab_size = config.vocab_size
        self._stop_tokens = frozenset(token for token in STOP_TOKENS if token < config.vocab_size)
        self._max_model_len = plan.max_model_len
        self._block_size = plan.block_size
        self._timeout_s = options.request_timeout_s or math.inf
        self._looks_up = options.speculation is not None

    def sequence_of(self, request: GenerationRequest) -> Sequence:
        """Return the request's sequence, not yet in any queue. Raises InvalidRequest (PromptTooLong among them)."""
        sampling = request.sampling
        self._check_prompt(request)
        _check_sampling(sampling, self._vocab_size)
        room = self._max_model_len - len(request.prompt_ids)
        stop_tokens = self._stops_at(sampling)
        grammar = Grammar(request.mask, request.request_id) if request.mask is not None else None
        sequence = Sequence(
            request,
            max_tokens=min(sampling.max_tokens or room, room),
            stop_tokens=stop_tokens,
            edits=LogitEdits.of(sampling, request.prompt_ids, stop_tokens, grammar),
            block_hashes=BlockHashes(_salt(sampling)),
        )
        sequence.deadline_s = sequence.submitted_s + min(sampling.timeout_s or math.inf, self._timeout_s)
        if self._looks_up:
            sequence.lookup = PromptLookup()
        sequence.block_hashes.extend_over(sequence.token_ids, self._block_size)
        return sequence

    def _check_prompt(self, request: GenerationRequest) -> None:
        prompt_ids = request.prompt_ids
        if len(prompt_ids) == 0:
            raise InvalidRequest("the prompt is empty")
        if len(prompt_ids) >= self._max_model_len:
            raise PromptTooLong(len(prompt_ids), self._max_model_len)
        num_told = len(prompt_ids) * (1 + (request.sampling.prompt_logprobs or 0))
        if request.sampling.prompt_logprobs is not None and num_told > MOST_TOLD_OF_PROMPT:
            raise InvalidRequest(
                f"prompt_logprobs of {len(prompt_ids)} tokens would tell {num_told} log probabilities; "
                f"{MOST_TOLD_OF_PROMPT} are told at most"
            )
        if not 0 <= min(prompt_ids) <= max(prompt_ids) < self._vocab_size:
            raise InvalidRequest(f"the prompt holds a token id outside 0 to {self._vocab_size - 1}")

    def _stops_at(self, sampling: SamplingParams) -> frozenset[int]:
        asked = frozenset(sampling.stop_token_ids)
        return asked if sampling.ignore_eos else self._stop_tokens | asked


def _salt(sampling: SamplingParams) -> str | None:
    """Return with whom blocks are shared: with nobody where logits of the whole prompt are wanted."""
    return sampling.cache_salt if sampling.prompt_logprobs is None else secrets.token_hex(16)


def _check_sampling(sampling: SamplingParams, vocab_size: int) -> None:
    """Raise InvalidRequest for what only the model can tell to be wrong."""
    for name, tokens in (
        ("logit_bias", sampling.logit_bias),
        ("stop_token_ids", sampling.stop_token_ids),
        ("allowed_token_ids", sampling.allowed_token_ids),
    ):
        if tokens and max(tokens) >= vocab_size:
            raise InvalidRequest(f"{name} holds a token id outside 0 to {vocab_size - 1}")
    if sampling.max_tokens is not None and sampling.min_tokens > sampling.max_tokens:
        raise InvalidRequest(f"min_tokens is {sampling.min_tokens}, more than max_tokens, {sampling.max_tokens}")

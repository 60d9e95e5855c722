"""SAMPLING: how an answer's tokens are chosen, or why there is no prompt to answer.

Stage: 2 validate → 5 step.
Owns: the parameters, their defaults and bounds.
Does not know: prompts; how tokens are chosen (engine/sampler.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Final, TypeAlias

from pydantic import Field

from gptoss_backend.contract.documents import STRICT
from gptoss_backend.contract.structure import OutputStructure

TokenId: TypeAlias = Annotated[int, Field(ge=0, lt=2**31)]
LogitBias: TypeAlias = Annotated[float, Field(ge=-100.0, le=100.0)]
_MAX_TOKENS_NAMED: Final = 1024
"""How many tokens one request may name to bias, and how many to stop at."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen and when generation ends. The defaults are OpenAI's, the bounds OpenAI's and vLLM's.

    The order is vLLM's: logit_bias, repetition_penalty, frequency_penalty and presence_penalty, allowed tokens, barred
    stop tokens and grammar, temperature, min_p, top_k, top_p of what these left. Equal logits stand or fall together.
    """

    __pydantic_config__ = STRICT
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """None: until a stop token or the end of the context."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    """0 is greedy, as is all below 1e-5 and a top_k of 1."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """0: no limit."""
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """The same seed, prompt and parameters give the same tokens, whatever else the engine computes."""
    ignore_eos: bool = False
    """Do not end at the vocabulary's own stop tokens. Those of `stop_token_ids` count nevertheless."""
    presence_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] = 0.0
    """Taken from the logit of every token that was generated before."""
    frequency_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] = 0.0
    """Taken from a token's logit for each time that it was generated before."""
    repetition_penalty: Annotated[float, Field(gt=0.0)] = 1.0
    """Divides positive and multiplies negative logits of the tokens of prompt and answer. 1: none."""
    logit_bias: Annotated[dict[TokenId, LogitBias], Field(max_length=_MAX_TOKENS_NAMED)] = field(default_factory=dict)
    """Added to the logits of these tokens."""
    allowed_token_ids: Annotated[tuple[TokenId, ...], Field(min_length=1, max_length=_MAX_TOKENS_NAMED)] | None = None
    """No other token can be chosen, not even one to stop at."""
    min_tokens: Annotated[int, Field(ge=0)] = 0
    """Stop tokens cannot be chosen before so many tokens."""
    stop_token_ids: Annotated[tuple[TokenId, ...], Field(max_length=_MAX_TOKENS_NAMED)] = ()
    """Further tokens to end at; the one that did is the last of TOKEN_IDS."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """How many alternatives to tell with each token's log probability; None: tell nothing."""
    prompt_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """The same of the prompt's tokens, all of which are computed then, whatever the KV cache holds."""
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    """The lower, the sooner. One step is worth `engine.priority_step_s` of waiting, so nobody waits for ever."""
    timeout_s: Annotated[float, Field(gt=0.0)] | None = None
    """A request that has not ended by then, waiting or running, ends with DEADLINE_EXCEEDED. The server's own limit,
    `engine.request_timeout_s`, holds besides."""
    structure: OutputStructure | None = None
    """What the answer is held to by a grammar."""
    cache_salt: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Beginnings of prompts are shared in the KV cache with requests of the same salt only; None: with all without."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """SAMPLING, where preprocess cannot make a prompt of CHAT; PROMPT_IDS then mean nothing.

    A document and not a Triton error: Triton's response cache keeps an error as an answer without outputs, so that the
    second client to send the same CHAT would not be told what is wrong. The generation step of an ensemble makes a
    Triton error of it.
    """

    __pydantic_config__ = STRICT
    refused: str
    """A sentence."""
    is_internal: bool = False
    """True where the fault is ours: INTERNAL rather than INVALID_ARG."""

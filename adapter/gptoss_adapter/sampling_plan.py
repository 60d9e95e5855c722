"""How the tokens of any answer are chosen, from what a request says and what its profile has for the rest.

Stage: 2 validate → 3 prompt.
Owns: the profile's defaults and limit, the rules that tie these fields together, what copies of an answer differ in.
Does not know: prompts, which API's request it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, TypeVar

from gptoss_adapter.context import may_hurry
from gptoss_adapter.errors import invalid_value
from gptoss_adapter.schemas.sampling import GenerationFields
from gptoss_backend.contract import SamplingParams
from gptoss_backend.settings import ProfileSettings

T = TypeVar("T")

NO_SEED: Final = -1
"""What vLLM and llama.cpp take for a seed that was left out."""
_LEAST_TOP_P: Final = 1e-6
"""Leaves the likeliest token, as would 0, of which the engine knows nothing."""


def sampling_of(
    body: GenerationFields, profile: ProfileSettings, max_tokens: int | None, logprobs: int | None
) -> SamplingParams:
    """Return how an answer's tokens are chosen. Raises InvalidRequestError for fields at odds with each other."""
    defaults = SamplingParams()
    if body.priority is not None and body.priority < defaults.priority and not may_hurry():
        raise invalid_value(
            f"'priority' is {body.priority}; this key may ask for {defaults.priority} or later.", "priority"
        )
    min_tokens = or_default(body.min_tokens, defaults.min_tokens)
    if max_tokens is not None and min_tokens > max_tokens:
        raise invalid_value(f"'min_tokens' ({min_tokens}) is more than the {max_tokens} tokens allowed.", "min_tokens")
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=or_default(body.temperature, or_default(profile.temperature, defaults.temperature)),
        top_p=max(or_default(body.top_p, or_default(profile.top_p, defaults.top_p)), _LEAST_TOP_P),
        top_k=max(or_default(body.top_k, defaults.top_k), 0),
        min_p=or_default(body.min_p, defaults.min_p),
        seed=None if body.seed == NO_SEED else body.seed,
        ignore_eos=or_default(body.ignore_eos, defaults.ignore_eos),
        presence_penalty=or_default(body.presence_penalty, defaults.presence_penalty),
        frequency_penalty=or_default(body.frequency_penalty, defaults.frequency_penalty),
        repetition_penalty=or_default(body.repetition_penalty, defaults.repetition_penalty),
        logit_bias={int(token): bias for token, bias in (body.logit_bias or {}).items()},
        min_tokens=min_tokens,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        logprobs=logprobs,
        priority=or_default(body.priority, defaults.priority),
        cache_salt=body.cache_salt,
    )


def max_tokens_of(profile: ProfileSettings, asked: int | None, param: str, *, default: int | None = None) -> int | None:
    """Return how long an answer may get; None: as long as the context allows.

    asked: by the field `param`. default: in place of the profile's. Raises InvalidRequestError above its limit.
    """
    limit = profile.max_tokens_limit
    if asked is not None and limit is not None and asked > limit:
        raise invalid_value(f"'{param}' is {asked}; this profile gives at most {limit} tokens.", param)
    wanted = asked or default or profile.max_tokens
    return min(wanted, limit) if wanted and limit else wanted or limit


def copies_of(sampling: SamplingParams, count: int) -> list[SamplingParams]:
    """Return the sampling of `count` answers to one prompt: a seed is counted on, so that they differ."""
    if sampling.seed is None:
        return [sampling] * count
    return [replace(sampling, seed=_as_int64(sampling.seed + index)) for index in range(count)]


def scored_once(copies: list[SamplingParams]) -> list[SamplingParams]:
    """Return the sampling of answers to one prompt, of which only the first tells the prompt's log probabilities."""
    return [copies[0], *(replace(copy, prompt_logprobs=None) for copy in copies[1:])]


def check_answer_fields(body: GenerationFields, num_choices: int, max_choices: int) -> None:
    """Raise InvalidRequestError where the request asks for another way of answering than this server's."""
    if num_choices > max_choices:
        message = f"The request asks for {num_choices} answers ('n' for each prompt); this server gives {max_choices}."
        raise invalid_value(message, "n")
    if body.stream_options is not None and not body.stream:
        raise invalid_value("'stream_options' is only allowed when 'stream' is true.", "stream_options")


def or_default(value: T | None, default: T) -> T:
    """Return the value, or the default where it was left out."""
    return default if value is None else value


def _as_int64(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63

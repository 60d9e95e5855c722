"""What chats and completions have in common: how tokens are chosen, when they end, how the answer is sent.

Stage: 2 validate.
Owns: these fields, their types and bounds.
Does not know: the contract with Triton (sampling_plan.py maps to it).
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BeforeValidator, Discriminator, Field, Tag

from gptoss_adapter.schemas.fields import Harmless, ListOf, NotHonoured, RequestModel, at_most

MAX_CHOICES: Final = 128
"""OpenAI's. `adapter.max_choices` may be less."""
_INT32: Final = 2**31

TokenId = Annotated[int, Field(ge=0, lt=_INT32)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True)]
"""As long as a prompt may be: numbers, unlike objects, are soon read."""
StopString = Annotated[str, Field(min_length=1, max_length=1024)]


def _stop_kind(value: object) -> str | None:
    if isinstance(value, str):
        return "one"
    return "several" if isinstance(value, list) else None


_MOST_STOPS: Final = 16
"""More than OpenAI's 4: lm-eval's tasks have up to 16, and vLLM takes any number."""
Stop = Annotated[
    Annotated[StopString, Tag("one")] | Annotated[ListOf[StopString], Field(max_length=_MOST_STOPS), Tag("several")],
    Discriminator(
        _stop_kind,
        custom_error_type="stop_type",
        custom_error_message=f"Input should be a string or a list of up to {_MOST_STOPS} strings",
    ),
]


def _none_for_minus_one(value: object) -> object:
    return None if value == -1 and isinstance(value, int) else value


class StreamOptions(RequestModel):
    """How an answer is streamed."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    """vLLM's: tell with every chunk what its choice has cost so far."""
    include_obfuscation: Annotated[object, NotHonoured(False)] = None


class ModelField(RequestModel):
    """Which model is asked."""

    model: str


class GenerationFields(RequestModel):
    """The common fields. null is as good as leaving one out."""

    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None

    max_tokens: Annotated[Annotated[int, Field(ge=1, lt=_INT32)] | None, BeforeValidator(_none_for_minus_one)] = None
    """-1: none is named, as in llama.cpp and LM Studio."""
    min_tokens: Annotated[int, Field(ge=0, lt=_INT32)] | None = None
    stop: Stop | None = None
    stop_token_ids: Annotated[ListOf[TokenId], Field(max_length=1024)] | None = None
    ignore_eos: bool | None = None

    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """0, which OpenAI takes: the likeliest token."""
    top_k: Annotated[int, Field(ge=-1, lt=_INT32)] | None = None
    """0 and -1: no limit."""
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """-1: none."""
    presence_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0.0)] | None = None
    logit_bias: (
        Annotated[
            dict[
                Annotated[str, Field(pattern="^(0|[1-9][0-9]{0,8})$")],
                Annotated[float, Field(ge=-100.0, le=100.0)],
            ],
            Field(max_length=1024),
            at_most(1024),
        ]
        | None
    ) = None
    """By token id, as JSON writes keys."""

    priority: Annotated[int, Field(ge=-1000, le=1000)] | None = None
    """The lower, the sooner."""
    cache_salt: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Beginnings of prompts are shared in the KV cache with requests of the same salt only."""
    profile: str | None = None
    """The operating point: defaults and limits, and for the model `gpt-oss` which model answers."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    user: str | None = None
    """Harmless: a label that changes no answer."""

    request_id: Harmless = None
    """Harmless: vLLM's name for the request in its log, in ours by the header X-Request-Id."""

    # vLLM's, as they are without being said
    length_penalty: Annotated[object, NotHonoured(1.0)] = None
    spaces_between_special_tokens: Annotated[object, NotHonoured(True)] = None
    use_beam_search: Annotated[object, NotHonoured(False)] = None
    return_tokens_as_token_ids: Annotated[object, NotHonoured(False)] = None
    truncate_prompt_tokens: Annotated[object, NotHonoured()] = None
    kv_transfer_params: Annotated[object, NotHonoured({})] = None
    mm_processor_kwargs: Annotated[object, NotHonoured({})] = None
    vllm_xargs: Annotated[object, NotHonoured({})] = None

    @property
    def stop_strings(self) -> list[str]:
        """`stop` as a list."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Whether every chunk of a stream tells the usage so far."""
        return self.stream_options is not None and bool(self.stream_options.continuous_usage_stats)

"""What the server answers: completions and errors.

Stage: 7 SSE, and the whole answers.
Owns: the shapes of answers. The chunks of a stream are written by chunks.py, byte by byte, for speed.
Does not know: where the values come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from gptoss_adapter.schemas.fields import AnswerModel

FinishReasonName = Literal["stop", "length", "tool_calls"]
StopReason = str | int | None
"""vLLM's: the stop string or token that ended the answer; null where it ended by itself, or was cut."""


class PromptTokensDetails(AnswerModel):
    """Of the prompt's tokens, those whose keys and values were still in the KV cache, and those now written to it."""

    cached_tokens: int
    cache_write_tokens: int


class CompletionTokensDetails(AnswerModel):
    """Of the answer's tokens, those that were reasoning."""

    reasoning_tokens: int


class Usage(AnswerModel):
    """What a request cost, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails

    @classmethod
    def of(cls, *, prompt_tokens: int, cached_tokens: int, completion_tokens: int, reasoning_tokens: int) -> Self:
        """Return what these make together."""
        return cls(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
            prompt_tokens_details=PromptTokensDetails(
                cached_tokens=cached_tokens, cache_write_tokens=prompt_tokens - cached_tokens
            ),
            completion_tokens_details=CompletionTokensDetails(reasoning_tokens=reasoning_tokens),
        )

    @classmethod
    def of_copies(cls, copies: Sequence[Usage], going_on: Sequence[Usage] = ()) -> Self:
        """Return the usage of several answers to one prompt, which counts once, as the first of them found it.

        going_on: what of each is another prompt, which counts, too.
        """
        prompts = [copies[0], *going_on[1:]]
        return cls.of(
            prompt_tokens=sum(one.prompt_tokens for one in prompts),
            cached_tokens=sum(one.prompt_tokens_details.cached_tokens for one in prompts),
            completion_tokens=sum(copy.completion_tokens for copy in copies),
            reasoning_tokens=sum(copy.completion_tokens_details.reasoning_tokens for copy in copies),
        )

    @classmethod
    def of_prompts(cls, prompts: Sequence[Usage]) -> Self:
        """Return the usage of several prompts and their answers."""
        return cls.of(
            prompt_tokens=sum(one.prompt_tokens for one in prompts),
            cached_tokens=sum(one.prompt_tokens_details.cached_tokens for one in prompts),
            completion_tokens=sum(one.completion_tokens for one in prompts),
            reasoning_tokens=sum(one.completion_tokens_details.reasoning_tokens for one in prompts),
        )


class Alternative(AnswerModel):
    """A token that might have come."""

    token: str
    """Its text; where that is not whole characters, its bytes written as \\xf0."""
    bytes: list[int]
    logprob: float


class TokenLogprobs(Alternative):
    """A token of the content, and what might have come in its place, the likeliest first."""

    top_logprobs: list[Alternative]


class ChoiceLogprobs(AnswerModel):
    """How likely the content's tokens were. Those of reasoning, calls and headers are not told."""

    content: list[TokenLogprobs]
    refusal: None


class AnswerFunction(AnswerModel):
    """The function a call names and its arguments, as the model wrote them."""

    name: str
    arguments: str


class AnswerToolCall(AnswerModel):
    """A call of a function that the model makes."""

    id: str
    type: Literal["function"]
    function: AnswerFunction


class AnswerCustomTool(AnswerModel):
    """The custom tool a call names and what it is given."""

    name: str
    input: str


class AnswerCustomCall(AnswerModel):
    """A call of a custom tool that the model makes."""

    id: str
    type: Literal["custom"]
    custom: AnswerCustomTool


class AnswerMessage(AnswerModel):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning: str | None = None
    reasoning_content: str | None = None
    """`reasoning` again, where `adapter.mirror_reasoning_content` says so."""
    tool_calls: list[AnswerToolCall | AnswerCustomCall] | None = None


class Choice(AnswerModel):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReasonName
    stop_reason: StopReason = None
    token_ids: list[int] | None = None
    """Where asked for."""


class PromptLogprob(AnswerModel):
    """vLLM's: how likely a token was in its place of the prompt."""

    logprob: float
    rank: int | None
    """1 is the likeliest; null of a token that is not among the likeliest told."""
    decoded_token: str


PromptLogprobs = list[dict[int, PromptLogprob] | None]
"""One entry a token, by token id: the token itself and the likeliest in its place; null for the first."""


class ChatCompletion(AnswerModel):
    """The whole answer to a chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Usage
    service_tier: Literal["default"] | None = None
    """Where the request named one."""
    prompt_token_ids: list[int] | None = None
    """Where asked for."""
    prompt_logprobs: PromptLogprobs | None = None
    """Where asked for."""


class TextLogprobs(AnswerModel):
    """How likely a text's tokens were: four lists of one length."""

    tokens: list[str]
    token_logprobs: list[float | None]
    """null of the first token of a prompt that is told, too."""
    top_logprobs: list[dict[str, float] | None]
    """The likeliest tokens and the one that came."""
    text_offset: list[int]
    """Characters before each token."""


class TextChoice(AnswerModel):
    """One continuation."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]
    stop_reason: StopReason = None
    prompt_token_ids: list[int] | None = None
    """Where asked for, as `token_ids`."""
    token_ids: list[int] | None = None
    prompt_logprobs: PromptLogprobs | None = None
    """Where asked for."""


class TextCompletion(AnswerModel):
    """The whole answer to a completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage


class ErrorDetail(AnswerModel):
    """Why there is no answer."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(AnswerModel):
    """The body of every answer with a status of 400 or more."""

    error: ErrorDetail

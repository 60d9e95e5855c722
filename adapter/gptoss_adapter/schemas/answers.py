"""What the server answers: completions, models and errors.

Stage: 7 SSE, and the whole answers.
Owns: the shapes of answers. The chunks of a stream are written by chunks.py, byte by byte, for speed.
Does not know: where the values come from.
"""

from __future__ import annotations

from typing import Literal

from gptoss_adapter.schemas.fields import AnswerModel

FinishReasonName = Literal["stop", "length", "tool_calls"]


class PromptTokensDetails(AnswerModel):
    """Of the prompt's tokens, those whose keys and values were still in the KV cache."""

    cached_tokens: int


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


class AnswerFunction(AnswerModel):
    """The function a call names and its arguments, as the model wrote them."""

    name: str
    arguments: str


class AnswerToolCall(AnswerModel):
    """A call the model makes."""

    id: str
    type: Literal["function"]
    function: AnswerFunction


class AnswerMessage(AnswerModel):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning: str | None = None
    tool_calls: list[AnswerToolCall] | None = None


class Choice(AnswerModel):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: None
    finish_reason: FinishReasonName


class ChatCompletion(AnswerModel):
    """The whole answer to a chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Usage


class ModelCard(AnswerModel):
    """A model served here."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(AnswerModel):
    """The models served here."""

    object: Literal["list"]
    data: list[ModelCard]


class ErrorDetail(AnswerModel):
    """Why there is no answer."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(AnswerModel):
    """The body of every answer with a status of 400 or more."""

    error: ErrorDetail

"""A chat request from its fields, as the schemas take it and as the contract then says it."""

from __future__ import annotations

from datetime import date

from gptoss_adapter.prompting import chat_request, sampling_params
from gptoss_adapter.schemas.chat import ChatCompletionRequest
from gptoss_backend.contract import ChatMessage, ChatRequest, ReasoningEffort, SamplingParams
from gptoss_backend.settings import ProfileSettings
from support.live_app import chat_body

PROFILE = ProfileSettings(model="demo", reasoning_effort=ReasoningEffort.HIGH, max_tokens=256)
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it", "parameters": {"type": "object"}},
}
CLOCK = {"type": "function", "function": {"name": "clock"}}


def parse(**fields: object) -> ChatCompletionRequest:
    """Return the request. Raises pydantic's ValidationError."""
    return ChatCompletionRequest.model_validate(chat_body(**fields))


def chat(**fields: object) -> ChatRequest:
    """Return what the prompt is made from."""
    return chat_request(parse(**fields), PROFILE, date(2026, 11, 23))


def sampling(**fields: object) -> SamplingParams:
    """Return how tokens are to be chosen."""
    return sampling_params(parse(**fields), PROFILE)


def message(**fields: object) -> ChatMessage:
    """Return the message that these fields of one become."""
    return chat(messages=[fields]).messages[0]

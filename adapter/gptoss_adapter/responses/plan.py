"""From a request for a response to the two documents of the contract, and to the response that is begun.

Stage: 2 validate → 3 prompt.
Owns: the mapping, the profile's defaults, the rules that tie several fields together, what a response repeats.
Does not know: where a conversation is kept, Harmony, Triton.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import date

from pydantic import JsonValue

from gptoss_adapter.efforts import effort_of
from gptoss_adapter.errors import invalid_value
from gptoss_adapter.prompting import wish_of
from gptoss_adapter.responses.conversation import chat_messages
from gptoss_adapter.responses.ids import new_response_id
from gptoss_adapter.responses.server_tools.hosted_tools import HostedOffer
from gptoss_adapter.responses.tools import Offering, told_tools, tools_for_model
from gptoss_adapter.sampling_plan import max_tokens_of, or_default, sampling_of
from gptoss_adapter.schemas.chat import Verbosity
from gptoss_adapter.schemas.custom_tools import NamedCustomTool
from gptoss_adapter.schemas.hosted_tools import NamedHosted
from gptoss_adapter.schemas.mcp_tools import NamedMcp
from gptoss_adapter.schemas.response_answers import ConversationReference, ResponseObject
from gptoss_adapter.schemas.response_items import Item
from gptoss_adapter.schemas.response_tools import AllowedFunctions, NamedFunction
from gptoss_adapter.schemas.responses import (
    LOGPROBS,
    JsonText,
    ResponseFields,
    ResponseRequest,
    SchemaText,
    SummaryDetail,
)
from gptoss_adapter.serving import ServedModel
from gptoss_adapter.structured import Form, one_form
from gptoss_backend.contract import (
    ChatMessage,
    ChatRequest,
    ReasoningEffort,
    ResponseFormat,
    Role,
    SamplingParams,
    TextForm,
    ToolChoiceMode,
)
from gptoss_backend.settings import ProfileSettings


def chat_request(
    body: ResponseFields, items: Sequence[Item], offering: Offering, profile: ProfileSettings, today: date
) -> ChatRequest:
    """Return what decides the prompt. items: the whole conversation. Raises InvalidRequestError."""
    instructions = (ChatMessage(Role.SYSTEM, body.instructions),) if body.instructions else ()
    plain = {offer.name for offer in offering.every if offer.grammar is not None}
    messages = (*instructions, *chat_messages(items, plain))
    if not messages:
        raise invalid_value("'input' holds no items.", "input")
    form = asked_form(body)
    return ChatRequest(
        messages=messages,
        notes=(*_notes(offering), *wish_of(_verbosity(body))),
        date=today.isoformat(),
        tools=tuple(tools_for_model(offering.told)),
        builtin_tools=tuple(offer.builtin for offer in offering.hosted),
        tool_choice=offering.choice,
        parallel_tool_calls=or_default(body.parallel_tool_calls, True),
        response_format=form if isinstance(form, ResponseFormat) else None,
        form=form if isinstance(form, TextForm) else None,
        reasoning_effort=_effort(body, profile),
    )


def _notes(offering: Offering) -> list[str]:
    """Return what the model is told of the tools besides."""
    told = () if offering.choice.mode is ToolChoiceMode.NONE else offering.hosted
    return [offer.note for offer in told if offer.note]


def asked_form(body: ResponseFields) -> Form | None:
    """Return what the text is held to, None where it is free. Raises InvalidRequestError where it is several forms."""
    return one_form(_response_format(body), body, "text.format")


def sampling_params(body: ResponseFields, profile: ProfileSettings) -> SamplingParams:
    """Return how the answer's tokens are chosen. Raises InvalidRequestError."""
    max_tokens = max_tokens_of(profile, body.max_output_tokens, "max_output_tokens")
    return sampling_of(body, profile, max_tokens, _num_alternatives(body))


def _num_alternatives(body: ResponseFields) -> int | None:
    """Return how many alternatives are told with each token; None: tokens are not told of."""
    return body.top_logprobs or (0 if LOGPROBS in (body.include or ()) else None)


def summary_detail(body: ResponseRequest) -> SummaryDetail | None:
    """Return how reasoning is to be told as its own summary; None: not at all."""
    asked = body.reasoning
    return (asked.summary or asked.generate_summary) if asked else None


def begun_response(
    body: ResponseRequest, served: ServedModel, sampling: SamplingParams, hosted: Sequence[HostedOffer]
) -> ResponseObject:
    """Return the response as it is before the first token: an id, and what was asked for.

    hosted: OpenAI's tools that are run here. Raises InvalidRequestError where it is to be made in the background and
    not to be kept.
    """
    if body.background and body.store is False:
        message = "'background' needs 'store': what is made in the background is fetched from there."
        raise invalid_value(message, "background")
    return ResponseObject(
        id=new_response_id(),
        object="response",
        created_at=int(time.time()),
        completed_at=None,
        status="queued" if body.background else "in_progress",
        error=None,
        incomplete_details=None,
        model=served.name.openai,
        output=[],
        usage=None,
        instructions=body.instructions,
        previous_response_id=body.previous_response_id,
        conversation=ConversationReference(id=body.conversation_id) if body.conversation_id is not None else None,
        tools=told_tools(body.tools, hosted),
        tool_choice=_told_choice(body),
        parallel_tool_calls=or_default(body.parallel_tool_calls, True),
        text={"format": _told_format(body), "verbosity": _verbosity(body) or "medium"},
        reasoning={"effort": str(_effort(body, served.profile)), "summary": summary_detail(body)},
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        temperature=sampling.temperature,
        top_p=or_default(body.top_p, sampling.top_p),
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        top_logprobs=or_default(body.top_logprobs, 0),
        truncation=body.truncation or "disabled",
        background=bool(body.background),
        store=or_default(body.store, True),
        service_tier="default",
        metadata=body.metadata or {},
        user=body.user,
        safety_identifier=body.safety_identifier,
        prompt_cache_key=body.prompt_cache_key,
        prompt_cache_retention=body.prompt_cache_retention,
        prompt_cache_options=None,
    )


def _effort(body: ResponseFields, profile: ProfileSettings) -> ReasoningEffort:
    asked = body.reasoning.effort if body.reasoning else None
    return effort_of(asked) if asked else profile.reasoning_effort


def _verbosity(body: ResponseFields) -> Verbosity | None:
    return body.text.verbosity if body.text else None


def _response_format(body: ResponseFields) -> ResponseFormat | None:
    match body.text.format if body.text else None:
        case JsonText():
            return ResponseFormat(where="text.format")
        case SchemaText() as asked:
            strict = bool(asked.strict)
            return ResponseFormat(asked.schema_, asked.name, asked.description, strict, where="text.format.schema")
    return None


# --- what is told again ---------------------------------------------------------------------------------------------


def _told_choice(body: ResponseRequest) -> JsonValue:
    choice = body.tool_choice
    if isinstance(choice, NamedFunction | NamedCustomTool | NamedMcp | NamedHosted | AllowedFunctions):
        told: dict[str, JsonValue] = choice.model_dump(mode="json", exclude_none=True)
        return told
    return choice or "auto"


def _told_format(body: ResponseRequest) -> dict[str, JsonValue]:
    match body.text.format if body.text else None:
        case SchemaText() as asked:
            return {
                "type": "json_schema",
                "name": asked.name,
                "description": asked.description,
                "schema": asked.schema_,
                "strict": bool(asked.strict),
            }
        case JsonText():
            return {"type": "json_object"}
    return {"type": "text"}

"""What makes an answer: one turn of the model, or several with tools run between them (server_tools/mcp_turns.py).

Stage: 3 prompt … 7 SSE, around `Turn`.
Owns: how a turn is made of a request; the one-turn answer.
Does not know: the response around the items, when it is kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from pydantic import JsonValue

from gptoss_adapter.context import current_record
from gptoss_adapter.errors import InvalidRequestError
from gptoss_adapter.limits import check_schemas, check_tools
from gptoss_adapter.responses.naming import naming_fields_of_this_api
from gptoss_adapter.responses.open_items import Event
from gptoss_adapter.responses.output import Output
from gptoss_adapter.responses.plan import asked_form, chat_request, sampling_params, summary_detail
from gptoss_adapter.responses.server_tools.hosted_tools import HostedOffer
from gptoss_adapter.responses.server_tools.pages import Pages
from gptoss_adapter.responses.told_again import Telling
from gptoss_adapter.responses.tools import Listed, Offer, Offering, offers
from gptoss_adapter.responses.truncation import FittedPrompt
from gptoss_adapter.schemas.answers import Usage
from gptoss_adapter.schemas.custom_tools import ResponseCustomTool
from gptoss_adapter.schemas.response_answers import OutputItem
from gptoss_adapter.schemas.response_items import Item
from gptoss_adapter.schemas.responses import ResponseFields, ResponseRequest
from gptoss_adapter.serving import ServedModel, Services
from gptoss_adapter.structured import check_form, check_text_form, input_form
from gptoss_adapter.turn import ChatPrompt, Turn
from gptoss_backend.contract import ChatRequest, SamplingParams


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was read, and the conversation it belongs to."""

    body: ResponseRequest
    served: ServedModel
    services: Services
    sampling: SamplingParams
    items: Sequence[Item]
    """The whole conversation."""

    def output(self) -> Output:
        """Return the answer's output, empty."""
        body = self.body
        return Output(Telling.of(body.include), Pages.of(self.items), tells_summary=summary_detail(body) is not None)

    def turn(self, offering: Offering, items: Sequence[Item], sampling: SamplingParams, served: ServedModel) -> Turn:
        """Return the turn that goes on behind those items. Raises InvalidRequestError."""
        body, services = self.body, self.services
        chat = chat_request(body, items, offering, served.profile, services.today())
        with naming_fields_of_this_api(offering.places):
            prompt = chat_prompt(body, chat, served, services)
            return Turn(services, served, chat, sampling, current_record(), stop=body.stop_strings, prompt=prompt)


class Turns(ABC):
    """An async context manager: `start()`, then iterate the events, then `end()` and the properties.

    Leaving it before the end cancels what is under way.
    """

    @property
    @abstractmethod
    def items(self) -> list[OutputItem]:
        """The items that were whole by now."""

    @property
    @abstractmethod
    def usage(self) -> Usage:
        """What all has cost. After the last events only."""

    @property
    @abstractmethod
    def is_cut(self) -> bool:
        """Whether there was no room to end. After the last events only."""

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Begin to count it as in flight."""

    @abstractmethod
    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let go of what is under way."""

    @abstractmethod
    async def start(self) -> None:
        """Wait until there is something to tell of. Raises ApiError."""

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    @abstractmethod
    async def __anext__(self) -> list[Event]:
        """Wait for the next part of the answer and return the events that tell of it. Raises ApiError."""

    def end(self) -> list[Event]:
        """Return the events that are left to tell. After the last part only."""
        return []


class SingleTurn(Turns):
    """An answer that one turn makes."""

    def __init__(self, asked: Asked) -> None:
        """Raises InvalidRequestError."""
        offering = offering_of(asked.body, asked.services)
        self._turn = asked.turn(offering, asked.items, asked.sampling, asked.served)
        self._places = offering.places
        self._output = asked.output()
        self._output.offer(offering.told)

    @property
    def items(self) -> list[OutputItem]:
        """The items that were whole by now."""
        return self._output.items

    @property
    def usage(self) -> Usage:
        """What the turn has cost."""
        return self._turn.usage

    @property
    def is_cut(self) -> bool:
        """Whether there was no room to end."""
        return self._turn.finish_reason == "length"

    async def __aenter__(self) -> Self:
        """Begin to count the turn as in flight."""
        await self._turn.__aenter__()
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let go of the turn."""
        await self._turn.__aexit__(error_type, error, traceback)

    async def start(self) -> None:
        """Wait until the engine takes the turn up. Raises ApiError."""
        with naming_fields_of_this_api(self._places):
            await self._turn.start()

    async def __anext__(self) -> list[Event]:
        """Wait for the next part of the answer and return the events that tell of it. Raises ApiError."""
        try:
            deltas = await anext(self._turn)
        except InvalidRequestError:  # seldom, so the naming is not set up for each part
            with naming_fields_of_this_api(self._places):
                raise
        return self._output.add(deltas)

    def end(self) -> list[Event]:
        """Return the events that tell of the last item."""
        return self._output.end(cut=self.is_cut or self._turn.has_cut_call)


def offering_of(
    body: ResponseFields, services: Services, listed: Listed | None = None, hosted: Sequence[HostedOffer] = ()
) -> Offering:
    """Return the functions of a request. listed: the tools of its MCP servers. Raises InvalidRequestError.

    hosted: OpenAI's tools that are run here.
    """
    every, limits = offers(body.tools, listed), services.settings.adapter
    check_tools(every, limits)
    check_schemas(dict(_schemas(every)), limits)
    check_form(asked_form(body), limits)
    for offer in every:
        if (form := input_form(offer.grammar, f"{offer.place}.format.definition")) is not None:
            check_text_form(form, limits)
    return Offering.of(body, every, hosted)


def chat_prompt(body: ResponseFields, chat: ChatRequest, served: ServedModel, services: Services) -> ChatPrompt:
    """Return the prompt of the chat, not yet rendered; with `truncation: auto` one that fits. Raises ApiError."""
    request_id = current_record().request_id
    if body.truncation != "auto":
        return ChatPrompt(services.model_server, chat, request_id)
    max_tokens = sampling_params(body, served.profile).max_tokens
    return FittedPrompt(services, served, chat, request_id, max_tokens)


def _schemas(every: Sequence[Offer]) -> Iterator[tuple[str, dict[str, JsonValue] | None]]:
    for offer in every:
        if isinstance(offer.function, ResponseCustomTool):
            continue
        what = offer.place if offer.server is None else f"{offer.place} ({offer.function.name})"
        yield f"{what}.parameters", offer.function.parameters

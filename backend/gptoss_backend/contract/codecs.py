"""The documents of the tensors ⇄ UTF-8 JSON bytes.

Stage: every hop between the adapter (or any Triton client) and the stubs.
Owns: which document stands in which tensor; the sentence about a document at fault.
Does not know: what documents say.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Generic, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from gptoss_backend.contract.chat import ChatRequest
from gptoss_backend.contract.events import GenerationEvent
from gptoss_backend.contract.sampling import Refusal, SamplingParams
from gptoss_backend.contract.tools import TOOL_TAGS


class ContractError(ValueError):
    """A document that does not follow the contract. The message is one sentence that names the part at fault."""


T = TypeVar("T")


class Codec(Generic[T]):
    """One document type ⇄ UTF-8 JSON bytes."""

    def __init__(self, name: str, document_type: Any) -> None:  # noqa: ANN401 (typing has no word for a type form)
        self._name = name
        self._adapter: TypeAdapter[T] = TypeAdapter(document_type)

    def encode(self, document: T) -> bytes:
        """Return the document as compact JSON; equal documents give equal bytes."""
        return self._adapter.dump_json(document, exclude_defaults=False)

    def decode(self, raw: bytes | bytearray | memoryview) -> T:
        """Parse and check. Raises ContractError with a sentence that names the faulty part."""
        try:
            return self._adapter.validate_json(bytes(raw))
        except ValidationError as error:
            raise ContractError(self._sentence(error)) from error

    def _sentence(self, error: ValidationError) -> str:
        first = error.errors(include_url=False, include_context=False)[0]
        path = ".".join(str(part) for part in first["loc"] if part not in TOOL_TAGS.values())
        where = f"{self._name}.{path}" if path else self._name
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        return f"{where}: {first['msg']}{more}"


CHAT_CODEC: Final[Codec[ChatRequest]] = Codec("CHAT", ChatRequest)
SAMPLING_CODEC: Final[Codec[SamplingParams]] = Codec("SAMPLING", SamplingParams)
REFUSAL_CODEC: Final[Codec[Refusal]] = Codec("SAMPLING", Refusal)
EVENT_CODEC: Final[Codec[GenerationEvent]] = Codec("EVENT", Annotated[GenerationEvent, Field(discriminator="event")])


def decode_sampling(raw: bytes) -> SamplingParams | Refusal:
    """Read the SAMPLING that preprocess wrote. Raises ContractError."""
    return REFUSAL_CODEC.decode(raw) if raw.startswith(b'{"refused":') else SAMPLING_CODEC.decode(raw)

"""What the routes need of the model server, whoever provides it.

Stage: 3 prompt and 4 schedule, seen from the adapter.
Owns: the protocol between the routes and the model server. Tests put a scripted one in Triton's place.
Does not know: gRPC, HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol, Self

from gptoss_backend.contract import ChatRequest, GenerationEvent, SamplingParams
from gptoss_backend.model_names import ModelName

STREAM_END_TIMEOUT_S: Final = 1.0
"""For the end of a stream, which comes with its last response: a server that does not end it is not waited for."""


@dataclass(frozen=True, slots=True)
class PromptIds:
    """A prompt's token ids as they travel: little-endian INT32. `raw_prompts.token_ids` reads them."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class GenerationStep:
    """One response of the generation stream: what has been generated since the one before."""

    token_ids: list[int]
    event: GenerationEvent | None = None


class GenerationStream(Protocol):
    """The responses to one prompt, in order. Iterating raises ApiError."""

    def __aiter__(self) -> Self:
        """Return itself."""

    async def __anext__(self) -> GenerationStep:
        """Wait for the next response. Raises StopAsyncIteration after the last."""

    def cancel(self) -> None:
        """Tell the model to stop. Returns at once; harmless after the end."""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """How one of several model servers does."""

    address: str
    live: bool
    missing_models: tuple[str, ...]
    num_in_flight: int
    """Generations of this process that run or wait there."""
    stuck: tuple[str, ...] = ()
    """What of it lives but does not get on: it is passed over."""

    @property
    def ready(self) -> bool:
        """Whether it answers chats."""
        return self.live and not self.missing_models


@dataclass(frozen=True, slots=True)
class ModelServerStatus:
    """Whether the model server can answer chats."""

    live: bool
    version: str | None
    missing_models: tuple[str, ...]
    replicas: tuple[ReplicaStatus, ...] = ()
    """Of a fleet."""

    @property
    def ready(self) -> bool:
        """Whether a chat sent now would be answered."""
        return self.live and not self.missing_models


class ModelServer(Protocol):
    """The two steps of a chat, and the server's state."""

    async def preprocess(self, chat: ChatRequest, request_id: str) -> PromptIds:
        """Return the chat's prompt. Raises ApiError."""

    def generate(
        self, model: ModelName, prompt: PromptIds, sampling: SamplingParams, request_id: str
    ) -> GenerationStream:
        """Submit the prompt to `model` and return its stream; iterating waits for the model.

        Raises ServiceUnavailableError where there is nobody to submit it to.
        """

    async def status(self) -> ModelServerStatus:
        """Ask whether the server lives and which of its models are missing. Never raises."""

    async def close(self) -> None:
        """Close the connection, and with it every stream still open."""

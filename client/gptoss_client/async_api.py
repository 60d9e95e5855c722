"""The asyncio client for what the OpenAI SDK has no word for.

Stage: the client library.
Owns: its connections, both opened on first use.
Does not know: what is asked and how answers are read (queries.py, ensemble.py). Chats over HTTP are the OpenAI SDK's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

from gptoss_backend.contract import ChatRequest
from gptoss_client.answer import AnswerPart
from gptoss_client.api import DEFAULT_BASE_URL, DEFAULT_TIMEOUT_S, triton_address
from gptoss_client.queries import HEALTH, MODELS, STATS, Query, http_options, unreachable
from gptoss_client.reports import Health, Model, Profile, Stats

if TYPE_CHECKING:
    from gptoss_client.ensemble import EnsembleChat

T = TypeVar("T")


class AsyncClient:
    """`api.Client` for asyncio: the same methods, arguments and errors. Any number of calls at once, in one loop."""

    def __init__(
        self,
        base_url: str = DEFAULT_BASE_URL,
        api_key: str | None = None,
        *,
        triton: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        verify: bool = True,
        trust_env: bool = True,
    ) -> None:
        """Arguments as of `api.Client`."""
        self.triton = triton or triton_address(base_url)
        self._http = httpx.AsyncClient(**http_options(base_url, api_key, timeout_s, verify=verify, trust_env=trust_env))
        self._channel: Any = None

    async def models(self) -> tuple[Model, ...]:
        """Return the names that requests may ask for."""
        return (await self._ask(MODELS)).data

    async def profiles(self) -> tuple[Profile, ...]:
        """Return the profiles that requests for `gpt-oss` may name, the one in force first."""
        return (await self._ask(MODELS)).profiles()

    async def health(self) -> Health:
        """Return how the server is, also where it is not ready."""
        return await self._ask(HEALTH)

    async def stats(self) -> Stats:
        """Return the server's figures and whether its targets hold."""
        return await self._ask(STATS)

    def generate(self, model: str, chat: ChatRequest) -> AsyncIterator[AnswerPart]:
        """Stream the answer of Triton's ensemble, as `api.Client.generate` does."""
        from gptoss_client.ensemble import EnsembleChat  # here: gRPC and the vocabulary take a moment to load

        return self._stream(EnsembleChat(model, chat))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self.close()

    async def _ask(self, query: Query[T]) -> T:
        try:
            response = await self._http.get(query.path)
        except httpx.HTTPError as error:
            raise unreachable(self._http.base_url, error) from error
        return query.read(response)

    async def _stream(self, chat: EnsembleChat) -> AsyncIterator[AnswerPart]:
        import grpc

        from gptoss_client.ensemble import grpc_error

        call = self._triton_stub().ModelStreamInfer(iter([chat.request]))
        try:
            async for response in call:
                for part in chat.read(response):
                    yield part
            chat.check_whole()
        except grpc.RpcError as error:
            raise grpc_error(self.triton, error) from error
        finally:
            call.cancel()  # changes nothing where it has ended

    def _triton_stub(self) -> Any:  # noqa: ANN401 (generated code has no types)
        import grpc
        from tritonclient.grpc import service_pb2_grpc

        from gptoss_client.ensemble import CHANNEL_OPTIONS

        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self.triton, options=CHANNEL_OPTIONS)
        return service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

"""The blocking client for what the OpenAI SDK has no word for.

Stage: the client library.
Owns: its connections, both opened on first use.
Does not know: what is asked and how answers are read (queries.py, ensemble.py). Chats over HTTP are the OpenAI SDK's.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from urllib.parse import urlsplit

import httpx

from gptoss_backend.contract import ChatRequest
from gptoss_backend.host_port import host_port
from gptoss_client.answer import AnswerPart
from gptoss_client.queries import HEALTH, MODELS, STATS, Query, http_options, server_root, unreachable
from gptoss_client.reports import Health, Model, Profile, Stats

if TYPE_CHECKING:
    from gptoss_client.ensemble import EnsembleChat

T = TypeVar("T")

DEFAULT_BASE_URL: Final = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT_S: Final = 30.0
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Client:
    """A server's models, profiles, health and figures, and chats straight with its Triton.

    Every method blocks, and raises an `api_errors.ClientError`. One thread at a time.
    """

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
        """base_url: with or without `/v1`. triton: HOST:PORT of its gRPC [default: the API's host, its port + 1].

        timeout_s: of the answers over HTTP. verify: whether a certificate must be one that this machine trusts.
        trust_env: whether the environment's proxies count; never for this machine's own addresses.
        """
        self.triton = triton or triton_address(base_url)
        self._http = httpx.Client(**http_options(base_url, api_key, timeout_s, verify=verify, trust_env=trust_env))
        self._channel: Any = None

    def models(self) -> tuple[Model, ...]:
        """Return the names that requests may ask for."""
        return self._ask(MODELS).data

    def profiles(self) -> tuple[Profile, ...]:
        """Return the profiles that requests for `gpt-oss` may name, the one in force first."""
        return self._ask(MODELS).profiles()

    def health(self) -> Health:
        """Return how the server is, also where it is not ready."""
        return self._ask(HEALTH)

    def stats(self) -> Stats:
        """Return the server's figures and whether its targets hold."""
        return self._ask(STATS)

    def generate(self, model: str, chat: ChatRequest) -> Iterator[AnswerPart]:
        """Stream the answer of Triton's ensemble; its last part is `answer.Ended`.

        model: by any of its names. Needs Triton's gRPC port, and no API key: the adapter has no part in it.
        Leaving early ends the stream but not the work, as Triton does not tell an ensemble's steps of a cancellation:
        bound it with `chat.sampling.max_tokens` or `timeout_s`.
        """
        from gptoss_client.ensemble import EnsembleChat  # here: gRPC and the vocabulary take a moment to load

        return self._stream(EnsembleChat(model, chat))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        if self._channel is not None:
            self._channel.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def _ask(self, query: Query[T]) -> T:
        try:
            response = self._http.get(query.path)
        except httpx.HTTPError as error:
            raise unreachable(self._http.base_url, error) from error
        return query.read(response)

    def _stream(self, chat: EnsembleChat) -> Iterator[AnswerPart]:
        import grpc

        from gptoss_client.ensemble import grpc_error

        call = self._triton_stub().ModelStreamInfer(iter([chat.request]))
        try:
            for response in call:
                yield from chat.read(response)
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
            self._channel = grpc.insecure_channel(self.triton, options=CHANNEL_OPTIONS)
        return service_pb2_grpc.GRPCInferenceServiceStub(self._channel)


def triton_address(base_url: str) -> str:
    """Return where `gptoss serve` puts Triton's gRPC: on the port after the API's."""
    parts = urlsplit(server_root(base_url))
    return host_port(parts.hostname or "", (parts.port or _DEFAULT_PORTS[parts.scheme]) + 1)

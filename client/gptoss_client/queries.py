"""What the client library asks over HTTP and how it reads the answers, without sending anything.

Stage: the client library; the part that its blocking and its asyncio client share.
Owns: the paths, which documents are asked for, what an answer's status means.
Does not know: how a request is sent.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import TypeAdapter, ValidationError

from gptoss_client.api_errors import ClientError, ProtocolError, ServerError, UnreachableError
from gptoss_client.reports import Health, ModelList, Stats

T = TypeVar("T")

_CONNECT_TIMEOUT_S: Final = 10.0
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Query(Generic[T]):
    """One GET and how its answer is read."""

    path: str
    document: TypeAdapter[T]
    answers: Collection[int] = (200,)
    """Statuses that come with the document."""

    def read(self, response: httpx.Response) -> T:
        """Return the document. Raises ServerError, ProtocolError."""
        if response.status_code not in self.answers:
            raise server_error(response)
        try:
            return self.document.validate_json(response.content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            at = f" at {where}" if where else ""
            raise ProtocolError(f"{response.url} is not what this client knows{at}: {first['msg']}") from error


MODELS: Final = Query("/v1/models", TypeAdapter(ModelList))
STATS: Final = Query("/stats", TypeAdapter(Stats))
# a server that is not ready says so with 503 and the same document
HEALTH: Final = Query("/health", TypeAdapter(Health), answers=(200, 503))


def server_root(base_url: str) -> str:
    """Return the URL without the `/v1` that OpenAI's clients end it with. Raises ClientError where it is none."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClientError(f"{base_url!r} is not a URL: it begins with http:// or https:// and names a host")
    return base_url.rstrip("/").removesuffix("/v1")


def http_options(base_url: str, api_key: str | None, timeout_s: float, *, verify: bool = True) -> dict[str, Any]:
    """Return the arguments of an httpx client, blocking or not."""
    root = server_root(base_url)
    return {
        "base_url": root,
        "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
        "timeout": httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S)),
        "verify": verify,
        # a proxy for the web is not for this machine
        "trust_env": urlsplit(root).hostname not in _LOOPBACK,
    }


def server_error(response: httpx.Response) -> ServerError:
    """Return what a read response with an error status says."""
    try:
        return ServerError.of(response.json(), response.status_code)
    except ValueError:
        return ServerError.of(response.text.strip(), response.status_code)


def unreachable(base_url: object, error: httpx.HTTPError) -> UnreachableError:
    """Return what a failed connection means."""
    if isinstance(error, httpx.TimeoutException):
        return UnreachableError(f"{base_url} did not answer in time")
    if isinstance(error, httpx.ConnectError):
        return UnreachableError(f"cannot connect to {base_url}: {error}")
    return UnreachableError(f"the connection to {base_url} broke: {error or type(error).__name__}")

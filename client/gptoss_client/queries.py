"""What the client library asks over HTTP and how it reads the answers, without sending anything.

Stage: the client library; the part that its blocking and its asyncio client share.
Owns: the paths, which documents are asked for, what an answer's status means.
Does not know: how a request is sent.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx
from pydantic import TypeAdapter, ValidationError

from gptoss_client.api_errors import ClientError, ProtocolError, ServerError, UnreachableError
from gptoss_client.reports import Health, ModelList, Stats

T = TypeVar("T")

_CONNECT_TIMEOUT_S: Final = 10.0
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_SENDABLE: Final = re.compile(r"[\x21-\x7e]+")  # what a header may hold


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
    if not _is_url(base_url):
        raise ClientError(f"{base_url!r} is not a URL: it begins with http:// or https:// and names a host")
    return base_url.rstrip("/").removesuffix("/v1")


def http_options(
    base_url: str, api_key: str | None, timeout_s: float, *, verify: bool = True, trust_env: bool = True
) -> dict[str, Any]:
    """Return the arguments of an httpx client, blocking or not.

    Raises ClientError where no request can be made with them.
    """
    root = server_root(base_url)
    if api_key and not _SENDABLE.fullmatch(api_key):
        raise ClientError("that is no API key: it has blanks, or characters that are no plain ASCII")
    # a proxy for the web is not for this machine
    trusts = trust_env and urlsplit(root).hostname not in _LOOPBACK
    if trusts and _needs_socks() and find_spec("socksio") is None:
        raise ClientError("a SOCKS proxy is set (ALL_PROXY or HTTPS_PROXY): `pip install socksio` for it, or unset it")
    return {
        "base_url": root,
        "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
        "timeout": httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S)),
        "verify": verify,
        "trust_env": trusts,
    }


def server_error(response: httpx.Response) -> ServerError:
    """Return what a read response says that is not the answer asked for."""
    if response.is_redirect:
        where = response.headers["Location"]
        return ServerError(f"{response.url} sends on to {where}: name that server", status=response.status_code)
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


def _is_url(text: str) -> bool:
    try:
        httpx.URL(text)
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, httpx.InvalidURL):  # a port that is no number, an address that never closes
        return False


def _needs_socks() -> bool:
    return any(getproxies().get(kind, "").startswith("socks") for kind in ("http", "https", "all"))

"""The Python client, and the `gptoss` command.

`Client` and `AsyncClient` are for what the OpenAI SDK has no word for; chats over HTTP are that SDK's.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptoss_client.answer import Answer
    from gptoss_client.api import Client
    from gptoss_client.api_errors import ClientError, ProtocolError, ServerError, UnreachableError
    from gptoss_client.async_api import AsyncClient

__all__ = ["Answer", "AsyncClient", "Client", "ClientError", "ProtocolError", "ServerError", "UnreachableError"]

_HOMES = {
    "Answer": "answer",
    "AsyncClient": "async_api",
    "Client": "api",
    "ClientError": "api_errors",
    "ProtocolError": "api_errors",
    "ServerError": "api_errors",
    "UnreachableError": "api_errors",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 (a module's attributes are of any type)
    """Import a name on its first use: the stubs and processes that import a part of this package need none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

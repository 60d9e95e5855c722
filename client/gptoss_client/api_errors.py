"""Why a call to a server has no result.

Stage: the client library.
Owns: its error tree; what a server's own error says.
Does not know: the commands and their exit statuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """A call has no result. The message is a sentence to act on."""


class UnreachableError(ClientError):
    """Nobody answers at the address, or the connection broke."""


class ProtocolError(ClientError):
    """What answers is not a server of this project, or one whose answers this client cannot read."""


class ServerError(ClientError):
    """The server refused or failed. The message is the server's own sentence."""

    def __init__(
        self, message: str, *, status: int | None = None, code: str | None = None, param: str | None = None
    ) -> None:
        """status: of HTTP; None where the error came in a stream or from Triton. param: the field at fault."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param

    @classmethod
    def of(cls, document: object, status: int | None = None) -> ServerError:
        """Read an error in OpenAI's shape; anything else is told as far as it says something."""
        error = document.get("error", document) if isinstance(document, Mapping) else document
        if not isinstance(error, Mapping):
            return cls(str(error)[:200] or f"the server answered with HTTP status {status}", status=status)
        message = error.get("message") or f"the server answered with HTTP status {status}"
        return cls(str(message), status=status, code=_text(error, "code"), param=_text(error, "param"))


def _text(error: Mapping[str, Any], key: str) -> str | None:
    value = error.get(key)
    return None if value is None else str(value)

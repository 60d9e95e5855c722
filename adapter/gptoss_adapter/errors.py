"""The adapter's errors, and the one place that turns them into OpenAI's error body.

Stage: any; a request that cannot be answered ends here.
Owns: the exception tree, each error's HTTP status, OpenAI type and code; the body's shape.
Does not know: why an error was raised, FastAPI's or pydantic's own errors (error_answers.py reads those).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from starlette.responses import Response

_MAX_CHARS: Final = 1000
"""Of a message or a param. A client's own words are in some of them, as long as it made them."""
# messages[3].tool_calls[0]: …   or   logit_bias holds …
_LEADING_PARAM: Final = re.compile(r"([a-z]\w*(?:\[\d+\])?(?:\.[A-Za-z_$]\w*(?:\[\d+\])?)*): |([a-z]+_[a-z_]+) ")


class ApiError(Exception):
    """A request ends without an answer. `message` is one sentence its sender can act on."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = _shortened(message)
        self.param = param and _shortened(param)
        self.headers = dict(headers or {})
        if code is not None:
            self.code = code

    def body(self) -> bytes:
        """Return OpenAI's error body as compact JSON."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return json.dumps({"error": error}, separators=(",", ":")).encode()

    def response(self) -> Response:
        """Return the error as a whole HTTP response."""
        return Response(self.body(), status_code=self.status, headers=self.headers, media_type="application/json")


def as_sentence(text: str) -> str:
    """Return the text with a capital and a full stop. A field's name (messages[0]) keeps its spelling."""
    begins_with_word = text.partition(" ")[0].isalpha()
    return f"{text[:1].upper() if begins_with_word else text[:1]}{text[1:]}{'' if text.endswith('.') else '.'}"


def _shortened(text: str) -> str:
    """Return the text, its middle left out where it is overlong."""
    half = _MAX_CHARS // 2
    return text if len(text) <= _MAX_CHARS else f"{text[:half]} … {text[-half:]}"


# --- the sender's fault ---------------------------------------------------------------------------------------------


class InvalidRequestError(ApiError):
    """The request is malformed, or asks for what this server does not do."""

    status = 400
    type = "invalid_request_error"


def invalid_value(message: str, param: str) -> InvalidRequestError:
    """Return the error for a field whose value cannot be: by itself, or beside the others."""
    return InvalidRequestError(message, param=param, code="invalid_value")


def refusal_of(text: str) -> InvalidRequestError:
    """Return the error for a sentence in which the backend refuses a request; the part it begins with is the param."""
    param = _LEADING_PARAM.match(text)
    return InvalidRequestError(as_sentence(text), param=param and (param[1] or param[2]))


class ContextLengthExceededError(InvalidRequestError):
    """The prompt does not fit in the model's context."""

    code = "context_length_exceeded"

    def __init__(self, message: str, param: str = "messages") -> None:
        super().__init__(message, param=param)


class StructureFailedError(InvalidRequestError):
    """A schema of the request led to a grammar larger than may be; part of an answer may have been sent."""

    code = "structure_failed"


class InvalidKeyError(InvalidRequestError):
    """The request carries no API key, or none of this server's."""

    status = 401
    code = "invalid_api_key"

    def __init__(self, message: str, *, was_offered: bool = False) -> None:
        """was_offered: there was a key, which is none of ours; RFC 6750 words the challenge so."""
        challenge = 'Bearer error="invalid_token"' if was_offered else "Bearer"
        super().__init__(message, headers={"WWW-Authenticate": challenge})


class NotFoundError(InvalidRequestError):
    """There is nothing at this URL."""

    status = 404
    code = "unknown_url"


class ModelNotFoundError(NotFoundError):
    """The request names a model that is not served here."""

    code = "model_not_found"

    def __init__(self, model: str, served: Sequence[str]) -> None:
        names = " and ".join(f"'{name}'" for name in served)
        super().__init__(f"The model '{model}' does not exist here; this server serves {names}.", param="model")


class MethodNotAllowedError(InvalidRequestError):
    """The URL exists, for another method."""

    status = 405
    code = "method_not_supported"


class BodyTimeoutError(InvalidRequestError):
    """The request body did not arrive in time."""

    status = 408
    code = "request_timeout"

    def __init__(self, timeout_s: float) -> None:
        # closing: what of the body still comes would be taken for the next request
        headers = {"Connection": "close"}
        super().__init__(f"The request body did not arrive within {timeout_s:g} s.", headers=headers)


class BodyTooLargeError(InvalidRequestError):
    """The request body is larger than `adapter.max_body_bytes`."""

    status = 413
    code = "request_too_large"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"The request body is larger than the {max_bytes} bytes this server takes.")


class UnsupportedMediaTypeError(InvalidRequestError):
    """The request body is not declared as JSON, or is compressed."""

    status = 415
    code = "unsupported_content_type"


class HeadersTooLargeError(InvalidRequestError):
    """The request's headers are longer than `adapter.max_header_bytes`."""

    status = 431
    code = "headers_too_large"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"The request's headers are longer than the {max_bytes} bytes this server takes.")


class TooManyRequestsError(ApiError):
    """The queue is full, or the key has enough under way: trying again a little later may succeed."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: int | None = None) -> None:
        """retry_after_s: None: the edge says it better than whoever raises this."""
        self.retry_after_s = retry_after_s
        super().__init__(message, headers={"Retry-After": str(retry_after_s or 1)})


class McpListingError(ApiError):
    """The tools of an MCP server, which the request wants, cannot be had."""

    status = 424
    type = "external_connector_error"
    code = "http_error"

    def __init__(self, label: str, why: str) -> None:
        """why: a sentence."""
        super().__init__(f"Error retrieving tool list from MCP server: '{label}'. {why}", param="tools")


class ClientGoneError(ApiError):
    """The client closed the connection; nobody reads the answer. The status is nginx's, for the log."""

    status = 499
    code = "client_closed_request"

    def __init__(self) -> None:
        super().__init__("The client closed the connection.")


class DeadlineExceededError(ApiError):
    """The request's time ran out before its answer was complete."""

    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"

    def __init__(self, message: str) -> None:
        # OpenAI's clients retry any 5xx; whoever set the deadline has no more time, and the server none to spare
        super().__init__(message, headers={"x-should-retry": "false"})


# --- our fault ------------------------------------------------------------------------------------------------------


class InternalError(ApiError):
    """Something of ours failed. What it was is in the log under the request's id, never in the answer."""

    code = "internal_error"

    def __init__(self, request_id: str) -> None:
        super().__init__(f"The server failed on this request. Its log says why under request id {request_id}.")


class ServiceUnavailableError(ApiError):
    """Triton, or a model in it, is not there, is loading or is ending."""

    status = 503
    code = "service_unavailable"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"Retry-After": "5"})


class PromptTimeoutError(ApiError):
    """The prompt was not rendered in time. Whoever was to render it may be well: it had too much before this.

    No ServiceUnavailableError: another replica would take as long for what takes long.
    """

    status = 503
    code = ServiceUnavailableError.code

    def __init__(self, timeout_s: float) -> None:
        message = f"The prompt was not ready within {timeout_s:g} s: too many others are being made. Try again later."
        super().__init__(message, headers={"Retry-After": "5"})


class DrainingError(ServiceUnavailableError):
    """This process is ending: it takes nothing more, or has no more time for what it took."""

    def __init__(self, message: str = "The server is shutting down.") -> None:
        super().__init__(message)

"""The adapter's errors, and the one place that turns them into OpenAI's error body.

Stage: any; a request that cannot be answered ends here.
Owns: the exception tree, each error's HTTP status, OpenAI type and code; the body's shape.
Does not know: why an error was raised, FastAPI's or pydantic's own errors (validation.py reads those).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar

from starlette.responses import Response


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
        self.message = message
        self.param = param
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


# --- the sender's fault ---------------------------------------------------------------------------------------------


class InvalidRequestError(ApiError):
    """The request is malformed, or asks for what this server does not do."""

    status = 400
    type = "invalid_request_error"


class ContextLengthExceededError(InvalidRequestError):
    """The prompt does not fit in the model's context."""

    code = "context_length_exceeded"

    def __init__(self, message: str) -> None:
        super().__init__(message, param="messages")


class NotFoundError(InvalidRequestError):
    """There is nothing at this URL."""

    status = 404
    code = "unknown_url"


class ModelNotFoundError(NotFoundError):
    """The request names a model that is not served here."""

    code = "model_not_found"

    def __init__(self, model: str, served: str) -> None:
        super().__init__(f"The model '{model}' does not exist here; this server serves '{served}'.", param="model")


class MethodNotAllowedError(InvalidRequestError):
    """The URL exists, for another method."""

    status = 405
    code = "method_not_supported"


class BodyTooLargeError(InvalidRequestError):
    """The request body is larger than `adapter.max_body_bytes`."""

    status = 413
    code = "request_too_large"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"The request body is larger than the {max_bytes} bytes this server takes.")


class UnsupportedMediaTypeError(InvalidRequestError):
    """The request body is not declared as JSON."""

    status = 415
    code = "unsupported_content_type"


class TooManyRequestsError(ApiError):
    """The queue is full: trying again a little later may succeed."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"Retry-After": "1"})


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

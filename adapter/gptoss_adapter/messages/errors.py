"""Errors as Anthropic's clients read them.

Stage: any; a request to one of their paths that cannot be answered ends here.
Owns: the error's type for each status, the shape of the body.
Does not know: why an error was raised.
"""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from gptoss_adapter.context import current_request_id
from gptoss_adapter.errors import ApiError, ContextLengthExceededError
from gptoss_adapter.messages.events import frame
from gptoss_adapter.schemas.message_answers import ErrorType, MessageError, MessageErrorDetail, UnsupportedThread

THREAD_UNSUPPORTED: Final = "thread_unsupported_request"
"""The code of the refusal to keep a conversation between requests."""
_TYPES: Final[dict[int, ErrorType]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_response(error: ApiError) -> Response:
    """Return the error as a whole HTTP response."""
    body = _document(error).json_bytes()
    return Response(body, status_code=error.status, headers=error.headers, media_type="application/json")


def error_event(error: ApiError) -> bytes:
    """Return the event that ends a stream which cannot go on."""
    return frame("error", _document(error).model_dump(exclude={"type"}, exclude_unset=True))


def _document(error: ApiError) -> MessageError:
    other: ErrorType = "invalid_request_error" if error.status < 500 else "api_error"
    detail = MessageErrorDetail(type=_TYPES.get(error.status, other), message=_message(error))
    if error.code == THREAD_UNSUPPORTED:
        thread = UnsupportedThread(error_code="thread_unsupported_request", unsupported=["thread"])
        detail = detail.model_copy(update={"details": thread})
    return MessageError(type="error", error=detail, request_id=current_request_id())


def _message(error: ApiError) -> str:
    # Claude Code shortens the conversation and tries again where it reads these words
    return f"prompt is too long: {error.message}" if isinstance(error, ContextLengthExceededError) else error.message

"""What the client is told of an error, whoever raised it: FastAPI, pydantic, Starlette or this adapter.

Stage: 2 validate, and any that a request ends at.
Owns: the sentence, param and code for each way a request can be malformed; which API's shape the answer has.
Does not know: any particular field; how an error of ours is written (errors, messages/errors).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from gptoss_adapter.context import current_request_id
from gptoss_adapter.errors import (
    ApiError,
    InternalError,
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    UnsupportedMediaTypeError,
)
from gptoss_adapter.messages.errors import error_response as anthropic_response
from gptoss_adapter.paths import speaks_anthropic
from gptoss_adapter.schemas.fields import TOO_MANY_FIELDS, UNSUPPORTED


def api_error_of(error: Exception, request: Request) -> ApiError:
    """Return what the client is to be told about `error`."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    if isinstance(error, HTTPException):
        return _of_http(error, request)
    return InternalError(current_request_id())


def error_response(error: Exception, request: Request) -> Response:
    """Return what the client is to be told about `error`, in the shape of the API it speaks."""
    told = api_error_of(error, request)
    return anthropic_response(told) if speaks_anthropic(request.url.path) else told.response()


def _of_http(error: HTTPException, request: Request) -> ApiError:
    if error.status_code == 404:
        meant = _meant(request)
        hint = f"; there is at {meant}" if meant else ""
        return NotFoundError(f"There is nothing at {request.method} {request.url.path}{hint}.")
    if error.status_code == 405:
        message = f"{request.url.path} does not take {request.method}."
        return MethodNotAllowedError(message, headers=error.headers)
    return InvalidRequestError(str(error.detail))


def _meant(request: Request) -> str | None:
    """Return the path that a client meant whose base URL lacks `/v1`, has it twice, or whose path ends in a slash."""
    path = request.scope["path"].rstrip("/")
    for other in (path, f"/v1{path}", path.replace("/v1/v1/", "/v1/", 1)):
        asked = {**request.scope, "path": other}
        if other and any(route.matches(asked)[0] is Match.FULL for route in request.app.routes):
            return str(other)
    return None


def _of_validation(error: RequestValidationError) -> ApiError:
    faults = error.errors()
    first = faults[0]
    if first["loc"][0] == "query":
        param = str(first["loc"][1])
        sentence, code = _sentence(first, param)
        return InvalidRequestError(sentence, param=param, code=code)
    if isinstance(error.body, bytes):
        return UnsupportedMediaTypeError("The request body must be sent as Content-Type: application/json.")
    if first["type"] == "json_invalid":
        return InvalidRequestError(f"The request body is not valid JSON: {first['ctx']['error']}.", code="invalid_json")
    if error.body is None or not isinstance(error.body, dict):
        return InvalidRequestError("The request body must be a JSON object.", code="invalid_type")
    param = _param(first, error.body)
    more = f" ({len(faults) - 1} more faults)" if len(faults) > 1 else ""
    sentence, code = _sentence(first, param)
    return InvalidRequestError(sentence + more, param=param, code=code)


def _sentence(fault: dict[str, Any], param: str) -> tuple[str, str]:
    kind: str = fault["type"]
    message = fault["msg"][:1].lower() + fault["msg"][1:]
    if kind == "missing":
        return f"Missing required parameter: '{param}'.", "missing_required_parameter"
    if kind == TOO_MANY_FIELDS:
        return f"Too many fields in {repr(param) if param else 'the request body'}: {message}.", "invalid_value"
    if kind == "extra_forbidden":
        return f"Unknown parameter: '{param}'.", "unknown_parameter"
    if kind == UNSUPPORTED:
        return f"Unsupported value for '{param}': {message}.", UNSUPPORTED
    if kind.endswith("_type"):
        return f"Invalid type for '{param}': {message}.", "invalid_type"
    return f"Invalid value for '{param}': {message}.", "invalid_value"


def _param(fault: dict[str, Any], body: object) -> str:
    """Return the fault's place as OpenAI writes it: messages[0].content.

    pydantic's path also names the members of unions it tried: those parts lead nowhere in the body.
    """
    location: Sequence[str | int] = fault["loc"][1:]
    path = ""
    place: object = body
    for depth, part in enumerate(location):
        absent = fault["type"] == "missing" and depth == len(location) - 1
        if isinstance(part, int) and isinstance(place, list):
            path += f"[{part}]"
            place = place[part]
        elif isinstance(place, dict) and (part in place or absent):
            path += f".{part}" if path else str(part)
            place = place.get(part)
    if fault["type"].startswith("union_tag"):
        path += "." + str(fault["ctx"]["discriminator"]).strip("'")
    return path

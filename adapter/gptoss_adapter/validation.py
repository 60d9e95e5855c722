"""From the errors of FastAPI, pydantic and Starlette to ours.

Stage: 2 validate.
Owns: reading a body as strict JSON; the sentence, param and code for each way a request can be malformed.
Does not know: any particular field; how an error becomes a response.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

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

_MAX_CONTAINERS: Final = 500_000
"""Objects and lists of JSON: 0.1 s to read. 8 MiB of text in any script have fewer; of `{},` they have 2.8 million."""
_NAMES_OF_VERSIONS: Final = frozenset({"api-version", "beta"})
"""Azure's, and what `client.beta` of OpenAI's library says with each request."""


class StrictJsonRequest(Request):
    """A request whose JSON is read by pydantic's parser.

    Python's own takes NaN, and lone surrogates that no UTF-8 encoder takes back: a 500 far from its cause.
    """

    async def json(self) -> Any:  # noqa: ANN401 (Starlette's signature)
        """Return the body's document. Raises JSONDecodeError."""
        body = await self.body()
        try:
            return from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise json.JSONDecodeError(str(error), "", 0) from error


class StrictJsonRoute(APIRoute):
    """A route that reads its body as StrictJsonRequest does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler behind the strict reader."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            strict = StrictJsonRequest(request.scope, request.receive)
            _check_containers(await strict.body())
            return await handle(strict)

        return handle_strictly


class StrictQueryRoute(StrictJsonRoute):
    """One that refuses what it does not know in the URL's query, too. A list's name may end in [], as OpenAI's does.

    Clients say the version of their API; here there is one.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler behind the strict reader."""
        handle = super().get_route_handler()
        known = {field.alias for field in self.dependant.query_params}

        async def handle_strictly(request: Request) -> Response:
            said = [(name.removesuffix("[]"), value) for name, value in request.query_params.multi_items()]
            for name, _ in said:
                if name not in known and name not in _NAMES_OF_VERSIONS:
                    message = f"Unknown parameter: '{name}'."
                    raise InvalidRequestError(message, param=name, code="unknown_parameter")
            scope = {**request.scope, "query_string": urlencode(said).encode()}
            return await handle(Request(scope, request.receive))

        return handle_strictly


def _check_containers(body: bytes) -> None:
    """Raise InvalidRequestError where reading the body would keep all others waiting. Brackets in texts count too."""
    num = body.count(b"{") + body.count(b"[")
    if num > _MAX_CONTAINERS:
        message = f"The request body has {num} opening brackets and braces; this server reads {_MAX_CONTAINERS}."
        raise InvalidRequestError(message, code="invalid_value")


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
        return NotFoundError(f"There is nothing at {request.method} {request.url.path}.")
    if error.status_code == 405:
        message = f"{request.url.path} does not take {request.method}."
        return MethodNotAllowedError(message, headers=error.headers)
    return InvalidRequestError(str(error.detail))


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

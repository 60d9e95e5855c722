"""Routes that take no more than they know: strict JSON in the body, and known names in the URL's query.

Stage: 2 validate.
Owns: how a body is read as JSON, which parameters of a query are refused.
Does not know: how much there may be in a body (body_parts), any particular field, how a fault is worded to the client
(error_answers).
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Coroutine
from typing import Any, Final
from urllib.parse import urlencode

from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response

from gptoss_adapter.body_parts import check_document, check_text
from gptoss_adapter.errors import InvalidRequestError, UnsupportedMediaTypeError

_NAMES_OF_VERSIONS: Final = frozenset({"api-version", "beta"})
"""Azure's, and what `client.beta` of OpenAI's library says with each request."""


class StrictJsonRequest(Request):
    """A request whose JSON is read by pydantic's parser.

    Python's own takes NaN, and lone surrogates that no UTF-8 encoder takes back: a 500 far from its cause.

    Once parsed the text is let go of: FastAPI and Starlette would keep it for as long as the answer takes.
    """

    _document: object = None
    _fault: ValueError | None = None

    async def read(self) -> None:
        """Read the body, for `json`. Raises InvalidRequestError, of which FastAPI would make another in `json`."""
        text = (await self.body()).removeprefix(codecs.BOM_UTF8)
        coding = self.headers.get("content-encoding", "identity")
        if text and coding.lower() != "identity":
            message = f"The request body is sent as Content-Encoding: {coding}; this server takes it uncompressed only."
            raise UnsupportedMediaTypeError(message, headers={"Accept-Encoding": "identity"})
        check_text(text)
        self._body = text[:1]  # all that FastAPI asks of it is whether there is one
        try:
            self._document = from_json(text, allow_inf_nan=False)
        except ValueError as error:
            self._fault = error
        check_document(self._document)

    async def json(self) -> Any:  # noqa: ANN401 (Starlette's signature)
        """Return the body's document, once. Raises JSONDecodeError."""
        if self._fault is not None:
            raise json.JSONDecodeError(str(self._fault), "", 0) from self._fault
        document, self._document = self._document, None
        return document


class StrictJsonRoute(APIRoute):
    """A route that reads its body as StrictJsonRequest does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler behind the strict reader."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            strict = StrictJsonRequest(request.scope, request.receive)
            await strict.read()
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

"""The HTTP application.

Stage: start-up.
Owns: which parts the app is made of.
Does not know: settings' origin, the HTTP server that runs it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import date

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gptoss_adapter.edge import Edge
from gptoss_adapter.errors import ApiError
from gptoss_adapter.inference import ModelServer
from gptoss_adapter.metrics import Metrics
from gptoss_adapter.routes import chat, completions, health, metrics, models, responses, tokens
from gptoss_adapter.serving import VERSION, ServedModel, Services, utc_today
from gptoss_adapter.triton_client import TritonModelServer
from gptoss_adapter.validation import api_error_of
from gptoss_backend.harmony.vocabulary import encoding
from gptoss_backend.settings import Settings


def create_app(
    settings: Settings, *, model_server: ModelServer | None = None, today: Callable[[], date] = utc_today
) -> FastAPI:
    """Return the app. It connects when it starts.

    model_server: the two steps; without it, Triton where `settings` say it listens. Closed with the app.
    today: the date that prompts name.
    """
    served = ServedModel.from_settings(settings)
    measured = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        address = f"{settings.server.triton_host}:{settings.server.grpc_port}"
        server = model_server or TritonModelServer(address, served.name.triton)
        encoding()  # loads the vocabulary, 0.2 s, before a client waits for it
        app.state.services = Services(settings, served, server, measured, today)
        try:
            yield
        finally:
            await server.close()

    app = FastAPI(
        title="GPT-OSS on Triton",
        version=VERSION,
        lifespan=lifespan,
        docs_url=None,  # their scripts come from a CDN
        redoc_url=None,
        redirect_slashes=False,
    )
    for routes in (chat, completions, responses, tokens, models, health, metrics):
        app.include_router(routes.router)
    for error_type in (ApiError, RequestValidationError, HTTPException):
        app.add_exception_handler(error_type, _answer_error)
    app.add_middleware(
        Edge,
        max_body_bytes=settings.adapter.max_body_bytes,
        body_timeout_s=settings.adapter.body_timeout_s,
        metrics=measured,
    )
    return app


async def _answer_error(request: Request, error: Exception) -> Response:
    return api_error_of(error, request).response()

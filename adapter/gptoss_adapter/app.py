"""The HTTP application.

Stage: start-up.
Owns: which parts the app is made of.
Does not know: settings' origin, the HTTP server that runs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from gptoss_adapter.admission import Admission
from gptoss_adapter.context import PROFILE_HEADER, REQUEST_ID_HEADER
from gptoss_adapter.drain import Drain
from gptoss_adapter.edge import Edge
from gptoss_adapter.error_answers import error_response
from gptoss_adapter.fleet import Fleet
from gptoss_adapter.fleet_addresses import ReplicaNames
from gptoss_adapter.fleet_metrics import FleetCollector, FleetPage, OnlyReplica
from gptoss_adapter.head_requests import HeadAsGet
from gptoss_adapter.hosts import HostCheck
from gptoss_adapter.inference import ModelServer
from gptoss_adapter.keys import KeyFile
from gptoss_adapter.mcp_servers.servers import McpServers, nobody_watches
from gptoss_adapter.metrics import Metrics
from gptoss_adapter.routes import (
    chat,
    completions,
    conversations,
    health,
    messages,
    metrics,
    models,
    page,
    responses,
    stats,
    tokens,
)
from gptoss_adapter.serving import VERSION, ServedModels, Services, utc_today
from gptoss_adapter.stats_triton import TritonPage
from gptoss_adapter.triton_client import TritonModelServer
from gptoss_backend.harmony.vocabulary import encoding
from gptoss_backend.host_port import host_port
from gptoss_backend.loopback import is_loopback
from gptoss_backend.settings import AdapterSettings, ServerSettings, Settings, SettingsError

if TYPE_CHECKING:
    from gptoss_adapter.tracing import Traces


def create_app(
    settings: Settings,
    *,
    model_server: ModelServer | None = None,
    today: Callable[[], date] = utc_today,
    drain: Drain | None = None,
    settings_file: Path | None = None,
) -> FastAPI:
    """Return the app. It connects when it starts.

    model_server: the two steps; without it, Triton where `settings` say it listens. Closed with the app.
    today: the date that prompts name.
    drain: of the HTTP server that runs the app.
    settings_file: where `gptoss reload` writes what it has loaded.
    Raises KeyFileError, SettingsError.
    """
    served = ServedModels(settings, settings_file)
    measured = Metrics()
    for name in served.names:
        measured.expect(name.openai, settings.profiles)
    traces = _traces(settings)
    mcp_servers = _mcp_servers(settings, measured, traces)
    drain = drain or Drain()
    keys = KeyFile(settings.adapter.keys_path) if settings.adapter.keys_path is not None else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server, triton_page = await _model_server(settings.server, served, measured, model_server)
        if traces is not None:
            server = traces.at(server)
        encoding()  # loads the vocabulary, 0.2 s, before a client waits for it
        app.state.services = Services(settings, served, server, measured, triton_page, today, drain, mcp_servers)
        try:
            async with _watched(keys):
                yield
        finally:
            await mcp_servers.close()
            await server.close()
            await triton_page.close()
            if traces is not None:
                await traces.close()

    app = FastAPI(
        title="GPT-OSS on Triton",
        version=VERSION,
        lifespan=lifespan,
        docs_url=None,  # their scripts come from a CDN
        redoc_url=None,
        redirect_slashes=False,
    )
    _add_routes(app, settings.adapter)
    for error_type in (RequestValidationError, HTTPException):
        app.add_exception_handler(error_type, _answer_error)
    _add_layers(app, settings, keys, drain, measured, traces)
    return app


@asynccontextmanager
async def _watched(keys: KeyFile | None) -> AsyncIterator[None]:
    """Look after the file of keys, where there is one, for as long as the app runs."""
    watch = asyncio.create_task(keys.watch(), name="watch-keys") if keys is not None else None
    try:
        yield
    finally:
        if watch is not None:
            watch.cancel()


def _add_routes(app: FastAPI, settings: AdapterSettings) -> None:
    for routes in (chat, completions, responses, conversations, messages, tokens, models, health, metrics, stats):
        app.include_router(routes.router)
    if settings.page:
        app.include_router(page.router)


def _add_layers(
    app: FastAPI, settings: Settings, keys: KeyFile | None, drain: Drain, measured: Metrics, traces: Traces | None
) -> None:
    """Put around the routes what every request passes, the innermost first."""
    is_open = keys is None and is_loopback(settings.server.host)
    hosts = HostCheck(settings.adapter.allowed_hosts) if is_open or settings.adapter.allowed_hosts else None
    app.add_middleware(HeadAsGet)
    app.add_middleware(
        Edge,
        settings=settings.adapter,
        admission=Admission(settings.adapter, keys, drain, hosts),
        drain=drain,
        metrics=measured,
    )
    if settings.adapter.cors_origins:
        _allow_origins(app, settings.adapter.cors_origins)  # around the Edge: errors, too, are read by pages only so
    if traces is not None:
        app.add_middleware(traces.around)


def _allow_origins(app: FastAPI, origins: Sequence[str]) -> None:
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=[REQUEST_ID_HEADER, PROFILE_HEADER, "openai-processing-ms", "retry-after"],
    )


async def _model_server(
    server: ServerSettings, served: ServedModels, measured: Metrics, given: ModelServer | None
) -> tuple[ModelServer, TritonPage | FleetPage]:
    """Return the given one, else Triton, one or several; and Triton's metrics."""
    if (targets := server.replica_targets) is not None and given is None:
        fleet = await Fleet.open(ReplicaNames(targets), served.names, server.metrics_port - server.grpc_port)
        measured.register(FleetCollector(fleet))
        return fleet, FleetPage(fleet)
    page = TritonPage(f"http://{host_port(server.triton_host, server.metrics_port)}/metrics")
    if given is not None:
        return given, page
    address = host_port(server.triton_host, server.grpc_port)
    triton = TritonModelServer(address, served.names)
    only = OnlyReplica(address, triton)
    measured.register(only, only.ask)
    return triton, page


def _traces(settings: Settings) -> Traces | None:
    if settings.adapter.otlp_endpoint is None:
        return None
    try:
        from gptoss_adapter.tracing import Traces
    except ImportError as error:
        what = "adapter.otlp_endpoint is set, but OpenTelemetry is not installed"
        raise SettingsError(f"{what}: pip install 'gptoss-triton[tracing]'") from error
    return Traces(settings.adapter.otlp_endpoint)


def _mcp_servers(settings: Settings, measured: Metrics, traces: Traces | None) -> McpServers:
    if not settings.adapter.mcp_servers:
        return McpServers(settings.adapter, measured)
    try:
        from gptoss_adapter.mcp_servers.sdk_session import SdkSession
    except ImportError as error:
        what = "adapter.mcp_servers is set, but the package mcp is not installed"
        raise SettingsError(f"{what}: pip install 'gptoss-triton[mcp]'") from error

    def connect(label: str) -> SdkSession:
        return SdkSession(label, settings.adapter.mcp_servers[label], VERSION)

    around_call = traces.around_tool if traces is not None else nobody_watches
    return McpServers(settings.adapter, measured, connect, around_call)


async def _answer_error(request: Request, error: Exception) -> Response:
    return error_response(error, request)

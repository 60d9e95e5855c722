"""GET /health, /health/ready and /health/live; /ping and /version, as vLLM has them.

Stage: 1 route.
Owns: what "ready" means: a chat sent now would be answered.
Does not know: the engine's inside.
"""

from __future__ import annotations

import platform
import time
from typing import Any, Literal

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from gptoss_adapter.inference import ModelServerStatus, ReplicaStatus
from gptoss_adapter.serving import VERSION, Services, Shared, TritonLook
from gptoss_adapter.stats_triton import TritonFigures

router = APIRouter(tags=["health"])

State = Literal["ok", "unavailable", "stuck", "draining"]


@router.get("/health")
async def health(services: Shared) -> JSONResponse:
    """200 when a chat sent now would be answered, else 503 and what is missing or stuck."""
    look, default = await services.look_at_triton(), services.models.default
    status, state = look.status, _state(services, look)
    document: dict[str, Any] = {
        "status": state,
        "model": default.name.openai,
        "profile": default.profile_name,
        "models": _models(services, status),
        "requests_under_way": services.drain.num_under_way,
        "triton": {"live": status.live, "missing": _missing(status)},
        "stuck": look.stuck,
        "engines": _engines(look.figures),
        "versions": {"gptoss": VERSION, "triton": status.version, "python": platform.python_version()},
        "uptime_s": round(time.time() - services.started_at, 1),
    }
    if status.replicas:
        document["replicas"] = [_replica(one) for one in status.replicas]
    return JSONResponse(document, status_code=200 if state == "ok" else 503)


@router.get("/health/ready")
async def ready(services: Shared) -> JSONResponse:
    """200 when a chat sent now would be answered, else 503: what a load balancer asks."""
    if services.drain.has_begun:
        return JSONResponse({"status": "draining"}, status_code=503)
    look = await services.look_at_triton()
    state = _state(services, look)
    document: dict[str, Any] = {"status": state}
    if state == "unavailable":
        document["missing"] = _missing(look.status)
    elif state == "stuck":
        document["stuck"] = look.stuck
    return JSONResponse(document, status_code=200 if state == "ok" else 503)


@router.get("/health/live")
async def live() -> dict[str, str]:
    """200 for as long as this process answers at all."""
    return {"status": "ok"}


@router.get("/ping", response_class=Response)
async def ping(services: Shared) -> Response:
    """As /health/ready, without a body: what SageMaker asks."""
    return Response(status_code=(await ready(services)).status_code)


@router.get("/version")
async def version() -> dict[str, str]:
    """Tell this software's version."""
    return {"version": VERSION}


def _models(services: Services, status: ModelServerStatus) -> list[dict[str, Any]]:
    """Return each model with the profile it runs at where a request names none."""
    return [
        {"model": one.name.openai, "profile": one.profile_name, "ready": one.name.triton not in status.missing_models}
        for one in services.models.all()
    ]


def _engines(figures: TritonFigures | None) -> list[dict[str, str]] | None:
    """Return what each engine says of itself: device, precision, placement and why; None where Triton does not tell."""
    if figures is None:
        return None
    return [{"model": one.model, "instance": one.instance} | one.info for one in figures.engines]


def _state(services: Services, look: TritonLook) -> State:
    if services.drain.has_begun:
        return "draining"
    if not look.status.ready:
        return "unavailable"
    return "stuck" if look.stuck else "ok"


def _replica(replica: ReplicaStatus) -> dict[str, Any]:
    return {
        "address": replica.address,
        "live": replica.live,
        "ready": replica.ready,
        "missing": list(replica.missing_models),
        "stuck": list(replica.stuck),
        "generations_under_way": replica.num_in_flight,
    }


def _missing(status: ModelServerStatus) -> list[str]:
    return list(status.missing_models) if status.live else ["tritonserver", *status.missing_models]

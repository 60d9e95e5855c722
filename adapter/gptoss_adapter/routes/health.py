"""GET /health and GET /health/live.

Stage: 1 route.
Owns: what "healthy" means: a chat sent now would be answered.
Does not know: the engine's inside.
"""

from __future__ import annotations

import platform
import time
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse

from gptoss_adapter.serving import VERSION, Shared

router = APIRouter(tags=["health"])


@router.get("/health")
async def health(services: Shared) -> JSONResponse:
    """200 when a chat sent now would be answered, else 503 and what is missing."""
    status = await services.model_server.status()
    missing = list(status.missing_models) if status.live else ["tritonserver", *status.missing_models]
    document: dict[str, Any] = {
        "status": "ok" if status.ready else "unavailable",
        "model": services.served.name.openai,
        "profile": services.served.profile_name,
        "triton": {"live": status.live, "missing": missing},
        "versions": {"gptoss": VERSION, "triton": status.version, "python": platform.python_version()},
        "uptime_s": round(time.time() - services.started_at, 1),
    }
    return JSONResponse(document, status_code=200 if status.ready else 503)


@router.get("/health/live")
async def live() -> dict[str, str]:
    """200 for as long as this process answers at all."""
    return {"status": "ok"}

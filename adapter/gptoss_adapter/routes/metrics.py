"""GET /metrics.

Stage: 1 route.
Owns: the format in which Prometheus is answered.
Does not know: what is measured.
"""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import PlainTextResponse, Response

from gptoss_adapter.serving import Shared

router = APIRouter(tags=["metrics"])


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(services: Shared) -> Response:
    """Return all metrics in Prometheus' text format."""
    page = await services.expositions.get(services.metrics.page)
    return Response(page, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

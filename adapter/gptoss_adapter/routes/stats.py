"""GET /stats.

Stage: 1 route.
Owns: that every served model is told of, also before its first request.
Does not know: where the figures come from.
"""

from __future__ import annotations

import time

from fastapi import APIRouter
from starlette.responses import Response

from gptoss_adapter.schemas.stats import StatsReport
from gptoss_adapter.serving import Services, Shared
from gptoss_adapter.stats import stats_report

router = APIRouter(tags=["metrics"])


@router.get("/stats", response_model=StatsReport)
async def stats(services: Shared) -> Response:
    """Say how the service does: latencies, throughput, caches, GPUs, and whether the service targets hold."""
    document = await services.stats_documents.get(lambda: _document(services))
    return Response(document, media_type="application/json")


async def _document(services: Services) -> bytes:
    activities = services.metrics.activities
    for served in services.models.all():
        activities.of(served.name.openai, served.profile_name)  # told of also before its first request
    triton = await services.triton_page.figures()
    now_s = time.time()
    return stats_report(activities, triton, now_s, now_s - services.started_at).model_dump_json().encode()

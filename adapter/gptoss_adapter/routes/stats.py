"""GET /stats.

Stage: 1 route.
Owns: that every served model is told of, also before its first request.
Does not know: where the figures come from.
"""

from __future__ import annotations

import time

from fastapi import APIRouter

from gptoss_adapter.schemas.stats import StatsReport
from gptoss_adapter.serving import Shared
from gptoss_adapter.stats import stats_report

router = APIRouter(tags=["metrics"])


@router.get("/stats")
async def stats(services: Shared) -> StatsReport:
    """Say how the service does: latencies, throughput, caches, GPUs, and whether the service targets hold."""
    activities = services.metrics.activities
    for served in services.models.all():
        activities.of(served.name.openai, served.profile_name)  # told of also before its first request
    triton = await services.triton_page.figures()
    now_s = time.time()
    return stats_report(activities, triton, now_s, now_s - services.started_at)

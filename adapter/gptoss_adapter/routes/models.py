"""GET /v1/models and GET /v1/models/{id}.

Stage: 1 route.
Owns: how the served model is described.
Does not know: whether it is ready (health.py).
"""

from __future__ import annotations

from fastapi import APIRouter

from gptoss_adapter.schemas.answers import ErrorBody, ModelCard, ModelList
from gptoss_adapter.serving import Services, Shared

router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def list_models(services: Shared) -> ModelList:
    """List the models served here."""
    return ModelList(object="list", data=[_card(services)])


@router.get("/v1/models/{model:path}", responses={"4XX": {"model": ErrorBody}})
async def get_model(model: str, services: Shared) -> ModelCard:
    """Describe one model."""
    services.served.check_serves(model)
    return _card(services)


def _card(services: Services) -> ModelCard:
    name = services.served.name
    # the demo's random weights are nobody's but ours
    owner = "gptoss-triton" if name.short == "demo" else "openai"
    return ModelCard(id=name.openai, object="model", created=int(services.started_at), owned_by=owner)

"""GET /v1/models and GET /v1/models/{id}.

Stage: 1 route.
Owns: how the served models, and the names that stand for one of them, are described.
Does not know: whether they are ready (health.py).
"""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter

from gptoss_adapter.paths import MODELS
from gptoss_adapter.schemas.answers import ErrorBody
from gptoss_adapter.schemas.model_answers import ListedModel, ModelList
from gptoss_adapter.serving import Services, Shared
from gptoss_backend.model_names import MODEL_ALIAS

router = APIRouter(tags=["models"])


@router.get(MODELS)
async def list_models(services: Shared) -> ModelList:
    """List the models served here, the alias, and the names that the operator has given."""
    names = [*(name.openai for name in services.models.names), MODEL_ALIAS, *services.models.given_names]
    data = [await _card(name, services) for name in names]
    return ModelList(object="list", data=data, has_more=False, first_id=names[0], last_id=names[-1])


@router.get(f"{MODELS}/{{model:path}}", responses={"4XX": {"model": ErrorBody}})
async def get_model(model: str, services: Shared) -> ListedModel:
    """Describe one model, by any name that a request may give it."""
    return await _card(model, services)


async def _card(model: str, services: Services) -> ListedModel:
    name = services.models.route(model).name
    max_model_len = await services.max_model_len(name)
    return ListedModel(
        id=model,
        object="model",
        created=int(services.started_at),
        # the demo's weights are nobody's but ours
        owned_by="gptoss-triton" if name.short == "demo" else "openai",
        root=name.openai,
        profiles=list(services.models.profiles_of(model)),
        max_model_len=max_model_len,
        type="model",
        display_name=name.openai,
        created_at=datetime.fromtimestamp(int(services.started_at), UTC),
        lifecycle="active",
        max_input_tokens=max_model_len,
    )

"""What this process serves, and the parts every route shares.

Stage: start-up, and 1 route.
Owns: the names the served model answers to, the profile's defaults, `Services` and how a route reaches them.
Does not know: any one request.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from importlib.metadata import version
from typing import Annotated, Final

from fastapi import Depends
from starlette.requests import Request

from gptoss_adapter.drain import Drain
from gptoss_adapter.errors import ModelNotFoundError
from gptoss_adapter.inference import ModelServer
from gptoss_adapter.metrics import Metrics
from gptoss_adapter.stats_triton import TritonPage
from gptoss_backend.contract import MODELS_BY_SHORT, ModelName
from gptoss_backend.settings import ProfileSettings, Settings

MODEL_ALIAS: Final = "gpt-oss"
"""Names whatever model the profile serves."""
VERSION: Final = version("gptoss-triton")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model this process serves and the operating point it serves it at."""

    name: ModelName
    profile_name: str
    profile: ProfileSettings
    fingerprint: str
    """OpenAI's system_fingerprint: changes when the model, its weights or this software do."""

    @classmethod
    def from_settings(cls, settings: Settings) -> ServedModel:
        """Return what `settings` say is served."""
        short = settings.served_model
        identity = f"{VERSION} {short} {settings.checkpoints.get(short)} {settings.engine.dtype}"
        return cls(
            name=MODELS_BY_SHORT[short],
            profile_name=settings.profile,
            profile=settings.active_profile,
            fingerprint=f"fp_{hashlib.sha256(identity.encode()).hexdigest()[:10]}",
        )

    def check_serves(self, model: str) -> None:
        """Raise ModelNotFoundError unless `model` names what is served."""
        if model not in (self.name.openai, MODEL_ALIAS):
            raise ModelNotFoundError(model, self.name.openai)


def utc_today() -> date:
    """Return the date, in UTC."""
    return datetime.now(UTC).date()


@dataclass(frozen=True, slots=True)
class Services:
    """What routes work with. One instance per process."""

    settings: Settings
    served: ServedModel
    model_server: ModelServer
    metrics: Metrics
    triton_page: TritonPage
    today: Callable[[], date]
    drain: Drain
    started_at: float = field(default_factory=time.time)
    """Unix seconds."""


async def _services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Shared = Annotated[Services, Depends(_services_of)]
"""The type of a route's parameter that receives the Services."""

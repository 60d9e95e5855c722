"""What this process serves, and the parts every route shares.

Stage: start-up, and 1 route.
Owns: the names the served models answer to, which model and profile a request gets, `Services` and how a route
reaches them.
Does not know: any one request.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final, get_args

from fastapi import Depends
from starlette.requests import Request

from gptoss_adapter.context import current_record
from gptoss_adapter.drain import Drain
from gptoss_adapter.errors import ModelNotFoundError, invalid_value
from gptoss_adapter.fleet_metrics import FleetPage
from gptoss_adapter.inference import ModelServer, ModelServerStatus
from gptoss_adapter.mcp_servers.servers import McpServers
from gptoss_adapter.metrics import Metrics
from gptoss_adapter.rationed import Rationed
from gptoss_adapter.stats_triton import TritonFigures, TritonPage
from gptoss_backend.heartbeat import Heartbeats
from gptoss_backend.model_names import MODEL_ALIAS, MODELS_BY_SHORT, ModelName, ModelShort
from gptoss_backend.settings import ProfileName, ProfileSettings, Settings, SettingsError
from gptoss_backend.settings_sources import load_settings

VERSION: Final = version("gptoss-triton")


_DEMO_MAX_TOKENS: Final = 2048
"""Of an answer that says no number: off its subjects so small a model may find no end."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model that serves a request, and the operating point it serves it at."""

    name: ModelName
    profile_name: ProfileName
    profile: ProfileSettings
    fingerprint: str
    """OpenAI's system_fingerprint: changes when the model, the place of its weights or this software does."""

    def within(self, timeout_s: float | None) -> ServedModel:
        """Return it with another limit on the time of a generation."""
        return replace(self, profile=self.profile.model_copy(update={"request_timeout_s": timeout_s}))


class ServedModels:
    """The models of this server under their profiles, and which of them a request gets."""

    def __init__(self, settings: Settings, settings_file: Path | None = None) -> None:
        """settings_file: where `gptoss reload` writes what it has loaded."""
        self.names = tuple(MODELS_BY_SHORT[short] for short in settings.served_models)
        given = settings.adapter.model_names or {}
        self.given_names = tuple(name for name, short in given.items() if MODELS_BY_SHORT[short] in self.names)
        """Those that the operator has given to models served here."""
        self._by_name = {name: MODELS_BY_SHORT[given[name]] for name in self.given_names}
        self._by_name |= {name: model for model in self.names for name in (model.openai, *model.elsewhere)}
        self._settings = settings
        self._checkpoints = _Checkpoints(settings, settings_file)

    @property
    def default(self) -> ServedModel:
        """What serves a request that names neither a model of its own nor a profile."""
        return self.route(MODEL_ALIAS)

    def all(self) -> list[ServedModel]:
        """Return every model at its own profile."""
        return [self.route(name.openai) for name in self.names]

    def route(self, model: str, profile: str | None = None) -> ServedModel:
        """Return what serves a request for `model`, by one of its names or the alias, at `profile`.

        A model that is named wins; the alias goes to the model of the profile, or of the one in force.
        Raises ModelNotFoundError, InvalidRequestError.
        """
        asked = None if profile is None else _profile_name(profile)
        if model == MODEL_ALIAS:
            return self._of_profile(asked or self._settings.profile)
        name = self._named(model)
        return self._at(name, asked or self._settings.profile_of(name.short))

    def profiles_of(self, model: str) -> list[ProfileName]:
        """Return the profiles by which the alias leads to `model`, its own first; of the alias: all that lead anywhere.

        Raises ModelNotFoundError.
        """
        names = self.names if model == MODEL_ALIAS else (self._named(model),)
        settings = self._settings
        own = settings.profile if model == MODEL_ALIAS else settings.profile_of(names[0].short)
        leading = [name for name in settings.profiles if MODELS_BY_SHORT[settings.model_of(name)] in names]
        return [own, *(name for name in leading if name != own)]

    def _named(self, model: str) -> ModelName:
        if model not in self._by_name:
            raise ModelNotFoundError(model, [name.openai for name in self.names])
        return self._by_name[model]

    def _of_profile(self, profile: ProfileName) -> ServedModel:
        name = MODELS_BY_SHORT[self._settings.model_of(profile)]
        if name not in self.names:
            able = ", ".join(f"'{one}' ({self._settings.model_of(one)})" for one in self.profiles_of(MODEL_ALIAS))
            message = f"'profile' is '{profile}', whose model {name.openai} is not served here; these are: {able}."
            raise invalid_value(message, "profile")
        return self._at(name, profile)

    def _at(self, name: ModelName, profile: ProfileName) -> ServedModel:
        point = self._settings.profiles[profile]
        if name.short == "demo" and point.max_tokens is None:
            point = point.model_copy(update={"max_tokens": _DEMO_MAX_TOKENS})
        return ServedModel(name, profile, point, self._fingerprint(name))

    def _fingerprint(self, name: ModelName) -> str:
        weights = self._checkpoints.of(name.short)
        identity = f"{VERSION} {name.short} {weights} {self._settings.engine.dtype}"
        return f"fp_{hashlib.sha256(identity.encode()).hexdigest()[:10]}"


class _Checkpoints:
    """Which checkpoint each model has, read anew when the file of the settings has changed."""

    def __init__(self, settings: Settings, file: Path | None) -> None:
        self._checkpoints = settings.checkpoints
        self._file = file
        self._changed_ns = self._last_change_ns()

    def of(self, model: ModelShort) -> str | None:
        changed_ns = self._last_change_ns()
        if self._file is not None and changed_ns != self._changed_ns:
            with contextlib.suppress(SettingsError):  # what was is still the best that is known
                self._checkpoints = load_settings(config=self._file, environ={}).checkpoints
            self._changed_ns = changed_ns
        return self._checkpoints.get(model)

    def _last_change_ns(self) -> int:
        with contextlib.suppress(OSError):
            return self._file.stat().st_mtime_ns if self._file is not None else 0
        return 0


def _profile_name(profile: str) -> ProfileName:
    for name in get_args(ProfileName):
        if name == profile:
            known: ProfileName = name
            return known
    message = f"'profile' is '{profile}', which is none of {', '.join(get_args(ProfileName))}."
    raise invalid_value(message, "profile")


def utc_today() -> date:
    """Return the date, in UTC."""
    return datetime.now(UTC).date()


@dataclass(frozen=True, slots=True)
class TritonLook:
    """How Triton does, as it was asked at one time."""

    status: ModelServerStatus
    figures: TritonFigures | None
    """What its metrics page says; None where it does not tell."""
    stuck: list[str]
    """What lives but does not get on, which Triton itself takes for ready."""


@dataclass(frozen=True, slots=True)
class Services:
    """What routes work with. One instance per process."""

    settings: Settings
    models: ServedModels
    model_server: ModelServer
    metrics: Metrics
    triton_page: TritonPage | FleetPage
    today: Callable[[], date]
    drain: Drain
    mcp_servers: McpServers
    encoding_turns: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whoever reads text here, for one piece of it."""
    started_at: float = field(default_factory=time.time)
    """Unix seconds."""
    heartbeats: Heartbeats = field(default_factory=Heartbeats)
    looks: Rationed[TritonLook] = field(default_factory=Rationed)
    stats_documents: Rationed[bytes] = field(default_factory=Rationed)
    expositions: Rationed[bytes] = field(default_factory=Rationed)

    def route(self, model: str | None, profile: str | None = None) -> ServedModel:
        """Return what serves the current request, and tag its log line, its response and its trace with that.

        model: None: the alias. Raises ModelNotFoundError, InvalidRequestError.
        """
        served = self.models.route(MODEL_ALIAS if model is None else model, profile)
        current_record().notes |= {"model": served.name.openai, "profile": served.profile_name}
        return served

    async def look_at_triton(self) -> TritonLook:
        """Find out how Triton does: once for all who ask meanwhile, anybody as often as they like."""
        return await self.looks.get(self._look)

    async def _look(self) -> TritonLook:
        status, answer = await asyncio.gather(self.model_server.status(), self.triton_page.figures())
        figures = None if isinstance(answer, str) else answer
        pages = figures.pages if figures is not None else {}
        stuck = self.heartbeats.stuck_parts(pages, self.settings.server.step_timeout_s).values()
        # as long as one of several replicas gets on, a chat sent now is answered
        return TritonLook(status, figures, [part for parts in stuck for part in parts] if all(stuck) else [])

    async def max_model_len(self, model: ModelName) -> int | None:
        """Return the longest prompt plus answer that `model` takes now, in tokens; None while its engine tells none."""
        figures = await self.triton_page.figures()
        return None if isinstance(figures, str) else figures.max_model_len(model.triton)


async def _services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Shared = Annotated[Services, Depends(_services_of)]
"""The type of a route's parameter that receives the Services."""

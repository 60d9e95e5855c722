"""What a server tells of itself, typed.

Stage: the client library.
Owns: the results of `models`, `profiles`, `health` and `stats`. Times are seconds, sizes bytes, rates shares from 0 to
1; None: nothing was measured, or it cannot be told.
Does not know: how a document is fetched. What a newer server tells besides is passed over.
"""

from __future__ import annotations

from dataclasses import dataclass

from gptoss_backend.model_names import MODEL_ALIAS


@dataclass(frozen=True, slots=True)
class Model:
    """A name that requests may ask for."""

    id: str
    root: str
    """The model behind the name."""
    created: int
    """When the server was started, in seconds since the epoch."""
    owned_by: str
    profiles: tuple[str, ...]
    """Those by which `gpt-oss` leads to this model, its own first."""
    max_model_len: int | None
    """The longest prompt plus answer that the model takes now; None while its engine is not there to tell."""


@dataclass(frozen=True, slots=True)
class ModelList:
    """The document of GET /v1/models."""

    data: tuple[Model, ...]

    def profiles(self) -> tuple[Profile, ...]:
        """Return the profiles by which the alias leads somewhere, the one in force first."""
        own = next((model.profiles for model in self.data if model.id == MODEL_ALIAS), ())
        models = [model for model in self.data if model.id != MODEL_ALIAS]
        return tuple(
            Profile(name, next((model.id for model in models if name in model.profiles), None), is_default=at == 0)
            for at, name in enumerate(own)
        )


@dataclass(frozen=True, slots=True)
class Profile:
    """An operating point that a request may name."""

    name: str
    model: str | None
    """What answers a request for `gpt-oss` at this profile."""
    is_default: bool
    """Whether it is in force where a request names none."""


@dataclass(frozen=True, slots=True)
class ModelHealth:
    """One served model."""

    model: str
    profile: str
    ready: bool


@dataclass(frozen=True, slots=True)
class TritonHealth:
    """The Triton behind the API."""

    live: bool
    missing: tuple[str, ...]
    """What is not there."""


@dataclass(frozen=True, slots=True)
class Health:
    """The document of GET /health."""

    status: str
    """ok, unavailable, stuck or draining."""
    model: str
    profile: str
    models: tuple[ModelHealth, ...]
    requests_under_way: int
    triton: TritonHealth
    stuck: tuple[str, ...]
    """What lives but does not get on."""
    engines: tuple[dict[str, str], ...] | None
    """What each engine says of itself."""
    versions: dict[str, str | None]
    uptime_s: float

    @property
    def is_ready(self) -> bool:
        """Whether a chat sent now would be answered."""
        return self.status == "ok"


@dataclass(frozen=True, slots=True)
class Latency:
    """How long something took."""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Window:
    """One model's last minute, five minutes or hour."""

    ended: dict[str, int]
    """Requests by outcome."""
    ttft_s: Latency
    inter_token_s: Latency
    e2e_s: Latency
    prompt_tokens_per_s: float
    generated_tokens_per_s: float
    kv_prefix_hit_rate: float | None


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model under one profile."""

    model: str
    profile: str
    waiting: int
    running: int
    ended: dict[str, int]
    """Requests by outcome since the server's start."""
    windows: dict[str, Window]
    """By their names: 1m, 5m, 60m."""


@dataclass(frozen=True, slots=True)
class PrefixCache:
    """Prompt tokens looked up in the KV cache since the engine's start."""

    queries: float
    hits: float
    hit_rate: float | None


@dataclass(frozen=True, slots=True)
class Speculation:
    """Tokens guessed ahead since the engine's start."""

    drafted: float
    accepted: float
    acceptance_rate: float | None


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine."""

    model: str
    instance: str
    info: dict[str, str]
    """Its device, precision and placement, and why each was chosen."""
    running: float
    waiting: float
    kv_cache_usage: float | None
    preemptions: float
    stalled_s: float
    prefix_cache: PrefixCache
    speculation: Speculation
    weights_bytes: float | None


@dataclass(frozen=True, slots=True)
class PromptCache:
    """Prompts answered from Triton's response cache."""

    hits: float
    misses: float
    hit_rate: float | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU."""

    uuid: str
    memory_used_bytes: float | None
    memory_total_bytes: float | None
    utilization: float | None
    power_w: float | None


@dataclass(frozen=True, slots=True)
class Target:
    """A service target and whether it holds."""

    target: str
    value: float | None
    comparison: str
    limit: float
    unit: str
    holds: bool | None
    over: str


@dataclass(frozen=True, slots=True)
class Stats:
    """The document of GET /stats."""

    unix_time_s: float
    uptime_s: float
    targets: tuple[Target, ...]
    served: tuple[ServedModel, ...]
    triton_error: str | None
    """Why engines, prompt_cache and gpus are None."""
    engines: tuple[Engine, ...] | None
    prompt_cache: PromptCache | None
    gpus: tuple[Gpu, ...] | None

"""Every setting of the project: names, defaults and bounds.

Stage: start-up of `gptoss`, of the adapter and of each stub.
Owns: what a setting may be; how settings decide the served models.
Does not know: where they are read from (settings_sources.py), what they do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gptoss_backend.contract import MAX_SCHEMA_BYTES, ReasoningEffort
from gptoss_backend.host_port import host_port
from gptoss_backend.model_names import MODEL_ALIAS, MODELS, ModelShort

PROJECT_ROOT: Final = Path(__file__).resolve().parents[2]

DNS_SCHEME: Final = "dns:///"
NUM_TRITON_PORTS: Final = 3
"""gRPC, metrics and HTTP."""

ReplicaTarget = Annotated[str, Field(pattern=rf"^({DNS_SCHEME})?(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):\d{{1,5}}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
McpLabel = Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_-]{0,63}$")]
_HeaderText = Annotated[str, Field(pattern=r"^[\x20-\x7e]*$")]
HostedKind = Literal["web_search", "code_interpreter"]
"""A tool of OpenAI's that an MCP server can stand in for."""
ProfileName = Literal["latency_first", "quality_first", "balanced"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]


class SettingsError(ValueError):
    """A setting is unknown or malformed. The message names its key."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(_Section):
    """Where the processes listen and keep their state."""

    host: str = "127.0.0.1"
    port: Port = 8000
    triton_host: str = "127.0.0.1"
    triton_grpc_port: Port | None = None
    triton_metrics_port: Port | None = None
    triton_http_port: Port | None = None
    triton_replicas: Annotated[list[ReplicaTarget], Field(min_length=1)] | None = None
    num_replicas: Annotated[int, Field(ge=1)] | None = None
    triton_config_name: Annotated[str, Field(pattern=r"^\S+$")] | None = None
    run_dir: Path = PROJECT_ROOT / ".run"
    model_repository: Path = PROJECT_ROOT / "model_repository"
    startup_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    shutdown_timeout_s: Annotated[float, Field(gt=0)] = 20.0
    hang_timeout_s: Annotated[float, Field(ge=0)] = 30.0
    step_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    response_cache_bytes: Annotated[int, Field(ge=0)] = 64 * 1024 * 1024
    gpu_metrics: bool = True
    log_max_bytes: Annotated[int, Field(ge=64 * 1024)] = 64 * 1024 * 1024

    @field_validator("triton_replicas", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """A variable of the environment says it shorter without brackets."""
        return [one.strip() for one in value.split(",")] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_replicas(self) -> Self:
        if self.triton_replicas is not None and self.num_tritonservers > 1:
            raise ValueError(
                "triton_replicas names tritonservers that are there, num_replicas is how many to start: set one of them"
            )
        return self

    @property
    def num_tritonservers(self) -> int:
        """How many run here, a replica each: as set, or as the start of the server has written it down; else 1."""
        return self.num_replicas or 1

    @property
    def replica_targets(self) -> list[str] | None:
        """Where the adapter finds several tritonservers: as set, else those that run here; None: there is one."""
        if self.triton_replicas is not None or self.num_tritonservers == 1:
            return self.triton_replicas
        ports = (self.of_replica(number).grpc_port for number in range(self.num_tritonservers))
        return [host_port(self.triton_host, port) for port in ports]

    def of_replica(self, number: int) -> Self:
        """Return the settings as tritonserver `number` has them: each listens three ports after the one before."""
        further = number * NUM_TRITON_PORTS
        ports = {
            "triton_grpc_port": self.grpc_port + further,
            "triton_metrics_port": self.metrics_port + further,
            "triton_http_port": self.http_port + further,
        }
        return self.model_copy(update=ports)

    @property
    def grpc_port(self) -> int:
        """Triton's gRPC port: as set, else the adapter's plus 1."""
        return self.triton_grpc_port or self.port + 1

    @property
    def metrics_port(self) -> int:
        """Triton's metrics port: as set, else the adapter's plus 2."""
        return self.triton_metrics_port or self.port + 2

    @property
    def http_port(self) -> int:
        """Triton's HTTP port: as set, else the adapter's plus 3."""
        return self.triton_http_port or self.port + 3


class McpServerSettings(_Section):
    """A server of tools: Model Context Protocol over streamable HTTP. A bare URL says as much as one in `url`."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s/?#]+[^\s#]*$")]
    headers: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")], _HeaderText] = {}

    @model_validator(mode="before")
    @classmethod
    def _of_url(cls, value: object) -> object:
        return {"url": value} if isinstance(value, str) else value


MAX_ENTRIES: Final = 16_384
"""Of a list of objects in a request: no setting allows more messages or tools, so more are not looked at."""


class AdapterSettings(_Section):
    """The HTTP process."""

    max_body_bytes: Annotated[int, Field(ge=1024)] = 8 * 1024 * 1024
    body_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    max_header_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024
    header_timeout_s: Annotated[float, Field(gt=0)] = 20.0
    write_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    max_messages: Annotated[int, Field(ge=1, le=MAX_ENTRIES)] = 2048
    max_choices: Annotated[int, Field(ge=1)] = 128
    max_tools: Annotated[int, Field(ge=1, le=MAX_ENTRIES)] = 128
    max_schema_bytes: Annotated[int, Field(ge=1024, le=MAX_SCHEMA_BYTES)] = MAX_SCHEMA_BYTES
    max_schema_depth: Annotated[int, Field(ge=1, le=150)] = 64
    mirror_reasoning_content: bool = False
    keepalive_s: Annotated[float, Field(gt=0)] = 15.0
    keepalive_timeout_s: Annotated[float, Field(gt=0)] = 75.0
    responses_path: Path | None = None
    responses_keep_days: Annotated[float, Field(gt=0)] = 30.0
    conversations_keep_days: Annotated[float, Field(gt=0)] | None = None
    responses_max_bytes: Annotated[int, Field(ge=1024 * 1024)] = 1024 * 1024 * 1024
    max_background_responses: Annotated[int, Field(ge=1)] = 64
    mcp_servers: dict[McpLabel, McpServerSettings] = {}
    hosted_tools: dict[HostedKind, McpLabel] = {}
    mcp_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    mcp_max_result_chars: Annotated[int, Field(ge=1024)] = 64 * 1024
    keys_path: Path | None = None
    open_metrics: bool = True
    page: bool = True
    max_concurrency_per_key: Annotated[int, Field(ge=1)] | None = None
    model_names: dict[Annotated[str, Field(min_length=1)], ModelShort] | None = None
    allowed_hosts: list[Annotated[str, Field(pattern=r"^[^\s/:]+$")]] = []
    cors_origins: list[Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")]] = []
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "text", "json"] = "auto"
    log_content: bool = False
    otlp_endpoint: Annotated[str, Field(pattern=r"^https?://[^\s]+$")] | None = None

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if self.tls_key is not None and self.tls_certificate is None:
            raise ValueError("tls_key is set, but tls_certificate is not")
        if self.max_concurrency_per_key is not None and self.keys_path is None:
            raise ValueError("max_concurrency_per_key is set, but keys_path is not")
        for kind, label in self.hosted_tools.items():
            if label not in self.mcp_servers:
                raise ValueError(f"hosted_tools.{kind} is {label}, which is none of the mcp_servers")
        return self

    @field_validator("model_names")
    @classmethod
    def _check_names(cls, names: dict[str, ModelShort] | None) -> dict[str, ModelShort] | None:
        own = {MODEL_ALIAS, *(name for model in MODELS for name in (model.openai, *model.elsewhere))}
        for name in own.intersection(names or ()):
            raise ValueError(f"{name} is a name that the models have anyway")
        return names


class EngineSettings(_Section):
    """The inference engine inside each generation stub."""

    dtype: Dtype = "auto"
    num_threads: Annotated[int, Field(ge=1)] | None = None
    kv_cache_dtype: Literal["auto", "fp8"] = "auto"
    cpu_kernels: Literal["auto", "native", "torch"] = "auto"
    experts: Literal["auto", "packed", "unpacked"] = "auto"
    dense_weights: Literal["auto", "int8"] = "auto"
    cuda_graphs: bool = True
    programmatic_dependent_launch: bool = False
    max_model_len: Annotated[int, Field(ge=16)] | None = None
    block_size: Annotated[int, Field(ge=1)] = 16
    kv_cache_bytes: Annotated[int, Field(ge=1)] | None = None
    max_num_seqs: Annotated[int, Field(ge=1)] = 64
    max_queue: Annotated[int, Field(ge=1)] = 512
    prefill_chunk_tokens: Annotated[int, Field(ge=1)] = 512
    request_timeout_s: Annotated[float, Field(gt=0)] | None = None
    priority_step_s: Annotated[float, Field(gt=0)] = 10.0
    speculation_tokens: Annotated[int, Field(ge=0, le=64)] | None = None
    speculation_max_seqs: Annotated[int, Field(ge=1)] = 2
    speculation_head: str | None = None
    max_responses_per_s: Annotated[float, Field(gt=0)] | None = None


class PlacementSettings(_Section):
    """Where the model is put."""

    mode: Literal["auto", "single", "pipeline", "tensor"] = "auto"
    num_devices: Annotated[int, Field(ge=1)] | None = None
    num_nodes: Annotated[int, Field(ge=1)] = 1
    rendezvous: Annotated[str, Field(pattern=r"^\S+:\d{1,5}$")] | None = None
    secret: str | None = None
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    meeting_timeout_s: Annotated[float, Field(gt=0)] = 3600.0

    @model_validator(mode="after")
    def _check_nodes(self) -> Self:
        if self.num_nodes > 1 and not (self.rendezvous and self.secret and self.num_devices):
            raise ValueError("several nodes need rendezvous, secret and num_devices")
        if self.num_nodes > 1 and self.mode not in ("pipeline", "tensor"):
            raise ValueError("several nodes need mode pipeline or tensor")
        return self


class ProfileSettings(_Section):
    """An operating point: the model it serves, the defaults of a request that does not say, the limits of an engine."""

    model: ModelShort
    reasoning_effort: ReasoningEffort = ReasoningEffort.MEDIUM
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens_limit: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    request_timeout_s: Annotated[float, Field(gt=0)] | None = None
    max_num_seqs: Annotated[int, Field(ge=1)] | None = None
    max_queue: Annotated[int, Field(ge=1)] | None = None
    prefill_chunk_tokens: Annotated[int, Field(ge=1)] | None = None
    speculation_tokens: Annotated[int, Field(ge=0, le=64)] | None = None
    speculation_head: str | None = None

    @model_validator(mode="after")
    def _check_tokens(self) -> Self:
        if self.max_tokens and self.max_tokens_limit and self.max_tokens > self.max_tokens_limit:
            raise ValueError(f"max_tokens ({self.max_tokens}) is above max_tokens_limit ({self.max_tokens_limit})")
        return self


class Settings(_Section):
    """All settings."""

    model: ModelShort | None = None
    models: Annotated[list[ModelShort], Field(min_length=1)] | None = None
    profile: ProfileName = "balanced"
    checkpoints: dict[ModelShort, str] = {
        "demo": str(PROJECT_ROOT / ".checkpoints" / "gpt-oss-demo"),
        "20b": "openai/gpt-oss-20b",
        "120b": "openai/gpt-oss-120b",
    }
    server: ServerSettings = ServerSettings()
    adapter: AdapterSettings = AdapterSettings()
    engine: EngineSettings = EngineSettings()
    placement: PlacementSettings = PlacementSettings()
    profiles: dict[ProfileName, ProfileSettings] = {
        "latency_first": ProfileSettings(
            model="20b",
            reasoning_effort=ReasoningEffort.LOW,
            max_tokens=1024,
            max_num_seqs=16,
            prefill_chunk_tokens=256,
        ),
        "quality_first": ProfileSettings(
            model="120b", reasoning_effort=ReasoningEffort.HIGH, max_num_seqs=32, prefill_chunk_tokens=1024
        ),
        "balanced": ProfileSettings(model="20b"),
    }

    @model_validator(mode="after")
    def _check_models(self) -> Self:
        models = self.models or []
        if len(set(models)) < len(models):
            raise ValueError("models names one of them twice")
        if models and self.model and self.model not in models:
            raise ValueError(f"model is {self.model}, which is not among models ({', '.join(models)})")
        if len(models) > 1 and self.placement.num_nodes > 1:
            raise ValueError("models names several, but placement.num_nodes puts one on several hosts")
        return self

    @property
    def served_model(self) -> ModelShort:
        """The model of the profile in force: `model` where set, else its own, else the first that is served."""
        own = self.model or self.profiles[self.profile].model
        return own if self.models is None or own in self.models else self.models[0]

    @property
    def served_models(self) -> tuple[ModelShort, ...]:
        """All models to serve."""
        return tuple(self.models or [self.served_model])

    def model_of(self, profile: ProfileName) -> ModelShort:
        """Return the model of a profile; it need not be served."""
        return self.served_model if profile == self.profile else self.profiles[profile].model

    def profile_of(self, model: ModelShort) -> ProfileName:
        """Return the profile that a model runs under: the one in force, unless only others are of that model."""
        own = [name for name in self.profiles if self.model_of(name) == model]
        return self.profile if self.profile in own or not own else own[0]

    def dump_yaml(self) -> str:
        """Return the settings as YAML that `load_settings` reads back to an equal object."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

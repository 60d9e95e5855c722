"""Every setting of the project, read once at the edge of each process.

Stage: start-up of `gptoss`, of the adapter and of each stub.
Owns: names, defaults and bounds of settings; the order file < environment < command line; the only use of os.environ.
Does not know: what the settings do.

The file is `configs/server_config.yaml` (or the one GPTOSS_CONFIG names). A setting `engine.max_num_seqs` is
GPTOSS_ENGINE__MAX_NUM_SEQS in the environment. `gptoss serve` writes what it resolved to a file in its run directory
and starts the other processes with GPTOSS_CONFIG naming it, so all of them see the same values.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Final, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gptoss_backend.contract import MODEL_ALIAS, MODELS, ModelShort, ReasoningEffort

ENV_PREFIX: Final = "GPTOSS_"
CONFIG_ENV: Final = "GPTOSS_CONFIG"
DTYPE_ENV: Final = "TORCH_DTYPE"
OTLP_ENV: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
PROJECT_ROOT: Final = Path(__file__).resolve().parents[2]
DEFAULT_CONFIG: Final = PROJECT_ROOT / "configs" / "server_config.yaml"

DNS_SCHEME: Final = "dns:///"

ReplicaTarget = Annotated[str, Field(pattern=rf"^({DNS_SCHEME})?(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):\d{{1,5}}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
McpLabel = Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_-]{0,63}$")]
_HeaderText = Annotated[str, Field(pattern=r"^[\x20-\x7e]*$")]
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
    triton_config_name: Annotated[str, Field(pattern=r"^\S+$")] | None = None
    run_dir: Path = PROJECT_ROOT / ".run"
    model_repository: Path = PROJECT_ROOT / "model_repository"
    startup_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    shutdown_timeout_s: Annotated[float, Field(gt=0)] = 20.0
    hang_timeout_s: Annotated[float, Field(ge=0)] = 30.0
    step_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    response_cache_bytes: Annotated[int, Field(ge=0)] = 64 * 1024 * 1024
    log_max_bytes: Annotated[int, Field(ge=64 * 1024)] = 64 * 1024 * 1024

    @field_validator("triton_replicas", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """A variable of the environment says it shorter without brackets."""
        return [one.strip() for one in value.split(",")] if isinstance(value, str) else value

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


class AdapterSettings(_Section):
    """The HTTP process."""

    max_body_bytes: Annotated[int, Field(ge=1024)] = 8 * 1024 * 1024
    body_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    max_header_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024
    header_timeout_s: Annotated[float, Field(gt=0)] = 20.0
    write_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    max_messages: Annotated[int, Field(ge=1)] = 2048
    max_choices: Annotated[int, Field(ge=1)] = 128
    max_tools: Annotated[int, Field(ge=1)] = 128
    max_schema_bytes: Annotated[int, Field(ge=1024)] = 128 * 1024
    max_schema_depth: Annotated[int, Field(ge=1, le=150)] = 64
    mirror_reasoning_content: bool = False
    keepalive_s: Annotated[float, Field(gt=0)] = 15.0
    keepalive_timeout_s: Annotated[float, Field(gt=0)] = 75.0
    responses_path: Path | None = None
    responses_keep_days: Annotated[float, Field(gt=0)] = 30.0
    responses_max_bytes: Annotated[int, Field(ge=1024 * 1024)] = 1024 * 1024 * 1024
    max_background_responses: Annotated[int, Field(ge=1)] = 64
    mcp_servers: dict[McpLabel, McpServerSettings] = {}
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
    speculation_tokens: Annotated[int, Field(ge=0, le=64)] = 4
    speculation_max_seqs: Annotated[int, Field(ge=1)] = 2
    speculation_head: str | None = None
    max_responses_per_s: Annotated[float, Field(gt=0)] | None = None
    drain_timeout_s: Annotated[float, Field(ge=0)] = 5.0


class PlacementSettings(_Section):
    """Where the model is put."""

    mode: Literal["auto", "single", "pipeline", "tensor"] = "auto"
    num_devices: Annotated[int, Field(ge=1)] | None = None
    num_nodes: Annotated[int, Field(ge=1)] = 1
    rendezvous: Annotated[str, Field(pattern=r"^\S+:\d{1,5}$")] | None = None
    secret: str | None = None
    timeout_s: Annotated[float, Field(gt=0)] = 120.0

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


@dataclass(frozen=True, slots=True)
class Layer:
    """What one source says of the settings, as the file would hold it."""

    source: str
    tree: Mapping[str, Any]


def named_file(environ: Mapping[str, str] | None = None) -> Path | None:
    """Return the settings file that GPTOSS_CONFIG names; None: it names none."""
    named = (os.environ if environ is None else environ).get(CONFIG_ENV)
    return Path(named) if named else None


def setting_layers(
    overrides: Mapping[str, Any] | None = None,
    *,
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> list[Layer]:
    """Return all that speaks of settings, the weakest source first; arguments and errors as in `load_settings`."""
    env = os.environ if environ is None else environ
    defaults = Settings().model_dump()
    said = []
    path = config or named_file(env)
    if path is not None or DEFAULT_CONFIG.exists():
        file = path or DEFAULT_CONFIG
        said.append(Layer(f"file {file}", _read_file(file)))
    said += _read_environment(env)
    return [
        Layer("default", defaults),
        *(Layer(layer.source, _without_empty_nulls(layer.tree, defaults)) for layer in said),
        Layer("command line", _without_none(overrides or {})),
    ]


def load_settings(
    overrides: Mapping[str, Any] | None = None,
    *,
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings: defaults < file < environment < `overrides`.

    A null is a value of a setting that may be null; of any other it says nothing.

    overrides: a nested mapping, as the file would hold it; None values are passed over.
    config: the file; without it GPTOSS_CONFIG, else configs/server_config.yaml where it exists.
    Raises SettingsError with the key's name.
    """
    tree: dict[str, Any] = {}
    for layer in setting_layers(overrides, config=config, environ=environ):
        _merge(tree, layer.tree)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise SettingsError(_sentence(error)) from error


def inherited_environment() -> dict[str, str]:
    """Return the environment that this process was given."""
    return dict(os.environ)


def child_environment(config: Path) -> dict[str, str]:
    """Return the environment for a process that is to see the resolved settings of `config` and no others."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(ENV_PREFIX)}
    inherited.pop(DTYPE_ENV, None)
    inherited.pop(OTLP_ENV, None)
    return inherited | {CONFIG_ENV: str(config)}


def bind_to_card(device_id: int, environ: MutableMapping[str, str] | None = None) -> None:
    """Let this process see one card only: number `device_id` of those that it sees. Before CUDA starts in it.

    Through an outer CUDA_VISIBLE_DEVICES, whose entries may be numbers or UUIDs.
    """
    env = os.environ if environ is None else environ
    outer = [entry.strip() for entry in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry.strip()]
    env["CUDA_VISIBLE_DEVICES"] = outer[device_id] if outer else str(device_id)


def bind_collectives_to(interface: str) -> None:
    """Let torch.distributed's libraries talk over one network interface, unless they are told of another."""
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):  # the only way to tell them
        os.environ.setdefault(name, interface)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"the settings file {path} is not UTF-8") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"the settings file {path} is not YAML: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SettingsError(f"the settings file {path} must hold a mapping of settings")
    return document


def _read_environment(env: Mapping[str, str]) -> Iterator[Layer]:
    if env.get(DTYPE_ENV):
        yield Layer(f"environment variable {DTYPE_ENV}", {"engine": {"dtype": env[DTYPE_ENV]}})
    if env.get(OTLP_ENV):
        yield Layer(f"environment variable {OTLP_ENV}", {"adapter": {"otlp_endpoint": env[OTLP_ENV]}})
    for name, text in env.items():
        if name.startswith(ENV_PREFIX) and name != CONFIG_ENV:
            *sections, leaf = name.removeprefix(ENV_PREFIX).lower().split("__")
            branch = {leaf: _parse_variable(name, text)}
            for section in reversed(sections):
                branch = {section: branch}
            yield Layer(f"environment variable {name}", branch)


def _parse_variable(name: str, text: str) -> Any:  # noqa: ANN401 (whatever YAML can say)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"the environment variable {name} does not hold a YAML value: {text!r}") from error


def _merge(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _nullable(section: BaseModel) -> Iterator[tuple[str, ...]]:
    """Yield the path of every setting below `section` that may be null."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        parts = {"": value} if isinstance(value, BaseModel) else value if isinstance(value, dict) else {}
        if NoneType in get_args(field.annotation):
            yield (name,)
        for key, part in parts.items():
            if isinstance(part, BaseModel):
                yield from ((name, key, *rest) if key else (name, *rest) for rest in _nullable(part))


_NULLABLE: Final = frozenset(_nullable(Settings()))


def _without_empty_nulls(
    tree: Mapping[str, Any], defaults: Mapping[str, Any], above: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return the tree without the nulls that are no value of their setting. Those of unknown keys stay, as faults."""
    kept: dict[str, Any] = {}
    for key, value in tree.items():
        path = (*above, key)
        if isinstance(value, Mapping):
            below = defaults.get(key)
            kept[key] = _without_empty_nulls(value, below if isinstance(below, Mapping) else {}, path)
        elif value is not None or key not in defaults or path in _NULLABLE:
            kept[key] = value
    return kept


def _without_none(tree: Mapping[str, Any]) -> dict[str, Any]:
    branches = {key: _without_none(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
    return {key: value for key, value in branches.items() if value is not None and value != {}}


def _sentence(error: ValidationError) -> str:
    faults = []
    for fault in error.errors(include_url=False, include_context=False):
        key = ".".join(str(part) for part in fault["loc"])
        what = "no such setting" if fault["type"] == "extra_forbidden" else fault["msg"]
        faults.append(f"{key}: {what}" if key else what)
    return "; ".join(faults)

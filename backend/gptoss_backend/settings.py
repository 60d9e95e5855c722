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
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gptoss_backend.contract import ModelShort, ReasoningEffort

ENV_PREFIX: Final = "GPTOSS_"
CONFIG_ENV: Final = "GPTOSS_CONFIG"
DTYPE_ENV: Final = "TORCH_DTYPE"
PROJECT_ROOT: Final = Path(__file__).resolve().parents[2]
DEFAULT_CONFIG: Final = PROJECT_ROOT / "configs" / "server_config.yaml"

Port = Annotated[int, Field(ge=1, le=65535)]
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
    triton_config_name: Annotated[str, Field(pattern=r"^\S+$")] | None = None
    run_dir: Path = PROJECT_ROOT / ".run"
    model_repository: Path = PROJECT_ROOT / "model_repository"
    startup_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    shutdown_timeout_s: Annotated[float, Field(gt=0)] = 20.0
    response_cache_bytes: Annotated[int, Field(ge=0)] = 64 * 1024 * 1024
    log_max_bytes: Annotated[int, Field(ge=64 * 1024)] = 64 * 1024 * 1024

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


class AdapterSettings(_Section):
    """The HTTP process."""

    max_body_bytes: Annotated[int, Field(ge=1024)] = 8 * 1024 * 1024
    body_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    max_messages: Annotated[int, Field(ge=1)] = 2048
    max_choices: Annotated[int, Field(ge=1)] = 128
    mirror_reasoning_content: bool = False
    keepalive_s: Annotated[float, Field(gt=0)] = 15.0
    responses_path: Path | None = None
    responses_keep_days: Annotated[float, Field(gt=0)] = 30.0
    responses_max_bytes: Annotated[int, Field(ge=1024 * 1024)] = 1024 * 1024 * 1024
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class EngineSettings(_Section):
    """The inference engine inside each generation stub."""

    dtype: Dtype = "auto"
    num_threads: Annotated[int, Field(ge=1)] | None = None
    cpu_kernels: Literal["auto", "native", "torch"] = "auto"
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
    max_responses_per_s: Annotated[float, Field(gt=0)] | None = None
    drain_timeout_s: Annotated[float, Field(ge=0)] = 5.0


class ProfileSettings(_Section):
    """An operating point: the model it serves and the defaults of a request that does not say."""

    model: ModelShort
    reasoning_effort: ReasoningEffort = ReasoningEffort.MEDIUM
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_num_seqs: Annotated[int, Field(ge=1)] | None = None
    prefill_chunk_tokens: Annotated[int, Field(ge=1)] | None = None


class Settings(_Section):
    """All settings."""

    model: ModelShort | None = None
    profile: ProfileName = "balanced"
    checkpoints: dict[ModelShort, str] = {
        "demo": str(PROJECT_ROOT / ".checkpoints" / "gpt-oss-demo"),
        "20b": "openai/gpt-oss-20b",
        "120b": "openai/gpt-oss-120b",
    }
    server: ServerSettings = ServerSettings()
    adapter: AdapterSettings = AdapterSettings()
    engine: EngineSettings = EngineSettings()
    profiles: dict[ProfileName, ProfileSettings] = {
        "latency_first": ProfileSettings(model="20b", reasoning_effort=ReasoningEffort.LOW),
        "quality_first": ProfileSettings(model="120b", reasoning_effort=ReasoningEffort.HIGH),
        "balanced": ProfileSettings(model="20b"),
    }

    @property
    def active_profile(self) -> ProfileSettings:
        """The profile in force."""
        return self.profiles[self.profile]

    @property
    def served_model(self) -> ModelShort:
        """The model to serve: `model` where set, else the profile's."""
        return self.model or self.active_profile.model

    def dump_yaml(self) -> str:
        """Return the settings as YAML that `load_settings` reads back to an equal object."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load_settings(
    overrides: Mapping[str, Any] | None = None,
    *,
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings: defaults < file < environment < `overrides`.

    overrides: a nested mapping, as the file would hold it; None values are passed over.
    config: the file; without it GPTOSS_CONFIG, else configs/server_config.yaml where it exists.
    Raises SettingsError with the key's name.
    """
    env = os.environ if environ is None else environ
    tree: dict[str, Any] = Settings().model_dump()
    path = config or (Path(env[CONFIG_ENV]) if env.get(CONFIG_ENV) else None)
    if path is not None or DEFAULT_CONFIG.exists():
        _merge(tree, _read_file(path or DEFAULT_CONFIG))
    _merge(tree, _read_environment(env))
    _merge(tree, _without_none(overrides or {}))
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise SettingsError(_sentence(error)) from error


def child_environment(config: Path) -> dict[str, str]:
    """Return the environment for a process that is to see the resolved settings of `config` and no others."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(ENV_PREFIX)}
    inherited.pop(DTYPE_ENV, None)
    return inherited | {CONFIG_ENV: str(config)}


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


def _read_environment(env: Mapping[str, str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, text in env.items():
        if name.startswith(ENV_PREFIX) and name != CONFIG_ENV:
            *sections, leaf = name.removeprefix(ENV_PREFIX).lower().split("__")
            branch = {leaf: _parse_variable(name, text)}
            for section in reversed(sections):
                branch = {section: branch}
            _merge(tree, branch)
    if env.get(DTYPE_ENV):
        tree.setdefault("engine", {}).setdefault("dtype", env[DTYPE_ENV])
    return tree


def _parse_variable(name: str, text: str) -> Any:  # noqa: ANN401 (whatever YAML can say)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"the environment variable {name} does not hold a YAML value: {text!r}") from error


def _merge(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if value is None and key in tree:
            continue
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


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

"""Where settings come from: defaults < file < environment < command line.

Stage: start-up of `gptoss`, of the adapter and of each stub, once at the edge of each process.
Owns: the order of the sources, what a null says in each, the sentence for a setting that is wrong.
Does not know: what the settings are (settings.py) or do.

The file is `configs/server_config.yaml` (or the one GPTOSS_CONFIG names). A setting `engine.max_num_seqs` is
GPTOSS_ENGINE__MAX_NUM_SEQS in the environment. `gptoss serve` writes what it resolved to a file in its run directory
and starts the other processes with GPTOSS_CONFIG naming it, so all of them see the same values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Final, get_args

import yaml
from pydantic import BaseModel, ValidationError

from gptoss_backend.environment import CONFIG_ENV, DTYPE_ENV, ENV_PREFIX, OTLP_ENV, inherited_environment
from gptoss_backend.settings import PROJECT_ROOT, Settings, SettingsError

DEFAULT_CONFIG: Final = PROJECT_ROOT / "configs" / "server_config.yaml"


@dataclass(frozen=True, slots=True)
class Layer:
    """What one source says of the settings, as the file would hold it."""

    source: str
    tree: Mapping[str, Any]


def named_file(environ: Mapping[str, str] | None = None) -> Path | None:
    """Return the settings file that GPTOSS_CONFIG names; None: it names none."""
    named = (inherited_environment() if environ is None else environ).get(CONFIG_ENV)
    return Path(named) if named else None


def setting_layers(
    overrides: Mapping[str, Any] | None = None,
    *,
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> list[Layer]:
    """Return all that speaks of settings, the weakest source first; arguments and errors as in `load_settings`."""
    env = inherited_environment() if environ is None else environ
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

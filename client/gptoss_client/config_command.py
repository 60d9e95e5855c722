"""`gptoss config`: every setting, its value, and where the value comes from.

Stage: any time.
Owns: the table and its JSON.
Does not know: how sources are read, what the settings do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from gptoss_backend.settings import Settings
from gptoss_backend.settings_sources import Layer

_SECRETS: Final = {"secret", "password", "token"}
_MASK: Final = "***"
_USER_IN_URL: Final = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True, slots=True)
class SourcedSetting:
    """A setting in force."""

    key: str
    value: Any
    source: str


def sourced_settings(settings: Settings, layers: Sequence[Layer]) -> list[SourcedSetting]:
    """Return every setting with the last of its sources that says anything of it. Secrets are masked.

    layers: what `settings` was made of, the weakest first.
    """
    return [
        SourcedSetting(".".join(path), _masked(path, value), _source(path, layers))
        for path, value in _leaves(settings.model_dump(mode="json"))
    ]


def as_table(settings: Sequence[SourcedSetting]) -> list[str]:
    """Return aligned lines: key, value as JSON, source."""
    rows = [(entry.key, json.dumps(entry.value, ensure_ascii=False), entry.source) for entry in settings]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"{key:<{widths[0]}}  {value:<{widths[1]}}  {source}" for key, value, source in rows]


def as_json(settings: Sequence[SourcedSetting]) -> str:
    """Return a JSON array of objects with key, value and source."""
    return json.dumps([asdict(entry) for entry in settings], indent=2, ensure_ascii=False)


def _leaves(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _source(path: tuple[str, ...], layers: Sequence[Layer]) -> str:
    return next(layer.source for layer in reversed(layers) if _speaks_of(layer.tree, path) or layer is layers[0])


def _speaks_of(tree: Any, path: tuple[str, ...]) -> bool:  # noqa: ANN401 (whatever YAML can say)
    for key in path:
        if isinstance(tree, str):  # the short form of what is below: an MCP server's URL
            return True
        if not isinstance(tree, Mapping) or key not in tree:
            return False
        tree = tree[key]
    return True


def _masked(path: Sequence[str], value: Any) -> Any:  # noqa: ANN401 (whatever JSON can say)
    return _MASK if path[-2:-1] == ("headers",) else _without_secret(path[-1], value)


def _without_secret(name: str, value: Any) -> Any:  # noqa: ANN401 (whatever JSON can say)
    if name in _SECRETS and value is not None:
        return _MASK
    if isinstance(value, list):
        return [_without_secret(name, entry) for entry in value]
    return _USER_IN_URL.sub(f"{_MASK}@", value) if isinstance(value, str) else value

"""How large the parts of a request may be.

Stage: 2 validate.
Owns: the limits on tools and JSON schemas, and the words of their refusals.
Does not know: which API a field belongs to; whether a schema can be enforced (preprocess looks into that).
"""

from __future__ import annotations

from collections.abc import Mapping, Sized

from pydantic import JsonValue
from pydantic_core import to_json

from gptoss_adapter.errors import invalid_value
from gptoss_backend.settings import AdapterSettings


def check_tools(tools: Sized | None, limits: AdapterSettings) -> None:
    """Raise InvalidRequestError where there are more tools than this server takes."""
    if tools is not None and len(tools) > limits.max_tools:
        raise invalid_value(f"The request offers {len(tools)} tools; this server takes {limits.max_tools}.", "tools")


def check_schemas(schemas: Mapping[str, Mapping[str, JsonValue] | None], limits: AdapterSettings) -> None:
    """Raise InvalidRequestError where a schema is longer or deeper than this server takes. schemas: by their place."""
    for param, schema in schemas.items():
        if schema is not None:
            _check_schema(param, schema, limits)


def _check_schema(param: str, schema: Mapping[str, JsonValue], limits: AdapterSettings) -> None:
    num_bytes = len(to_json(schema))
    if num_bytes > limits.max_schema_bytes:
        message = f"The schema '{param}' is {num_bytes} bytes of JSON; this server takes {limits.max_schema_bytes}."
        raise invalid_value(message, param)
    depth = _depth(schema)
    if depth > limits.max_schema_depth:
        message = f"The schema '{param}' is nested {depth} deep; this server takes {limits.max_schema_depth}."
        raise invalid_value(message, param)


def _depth(value: object) -> int:
    """Return how many objects and lists are within each other. What was parsed is no deeper than the parser goes."""
    if isinstance(value, Mapping):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0

"""What a tool returned, as the text that the model reads.

Stage: between the turns of an answer.
Owns: the words for what is no text, and for what was cut.
Does not know: MCP's types; parts come as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pydantic import JsonValue


def result_text(parts: Sequence[Mapping[str, JsonValue]], structured: JsonValue = None) -> str:
    """Return the parts as one text. structured: stands in where there are none."""
    if not parts and structured is not None:
        return json.dumps(structured, ensure_ascii=False)
    return "\n".join(_part_text(part) for part in parts)


def shortened(text: str, max_chars: int) -> str:
    """Return the text, or its beginning and a sentence that says so."""
    if len(text) <= max_chars:
        return text
    return f"{text[:max_chars]}\n\n[This result is cut: of its {len(text)} characters these are the first {max_chars}.]"


def _part_text(part: Mapping[str, JsonValue]) -> str:
    match part.get("type"):
        case "text":
            return str(part.get("text", ""))
        case "resource":
            return _resource_text(part.get("resource"))
        case "resource_link":
            return f"[A link to {part.get('name')}: {part.get('uri')}]"
        case kind:
            return f"[Here is content of type {kind} ({part.get('mimeType')}), which this model cannot see.]"


def _resource_text(resource: JsonValue) -> str:
    if not isinstance(resource, dict):
        return ""
    if "text" in resource:
        return str(resource["text"])
    return f"[Here is the resource {resource.get('uri')} ({resource.get('mimeType')}), which this model cannot read.]"

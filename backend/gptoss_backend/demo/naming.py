"""What made checkpoints call themselves, so that nobody takes one for OpenAI's.

Owns: those names, and telling whether a folder holds the demo that this version ships.
Does not know: torch; the client asks here, too.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

WEIGHTS_FILE: Final = Path(__file__).parent / "weights" / "demo.safetensors"
"""The shipped weights of the demo."""
DEMO_NAME: Final = "gpt-oss-demo: trained by this project, not an OpenAI model"
"""What the demo's config.json says of itself."""
RANDOM_DEMO_NAME: Final = "gpt-oss-demo: random weights, not an OpenAI model"
"""What it said before there were trained weights."""
WEIGHTS_KEY: Final = "demo_weights_sha256"
"""In the demo's config.json: of which shipped file it was made."""


def name_of(shape: str) -> str:
    """Return what the config.json of a named shape's random checkpoint says of itself."""
    return f"gpt-oss-{shape}: random weights, not an OpenAI model"


def is_demo(folder: Path) -> bool:
    """True where `folder` holds a demo checkpoint; False too where it cannot be read."""
    return _config(folder).get("_name_or_path") in (DEMO_NAME, RANDOM_DEMO_NAME)


def is_outdated_demo(folder: Path) -> bool:
    """True where `folder` holds a demo checkpoint made of other weights than those shipped now."""
    return is_demo(folder) and _config(folder).get(WEIGHTS_KEY) != weights_digest(WEIGHTS_FILE)


def weights_digest(weights: Path) -> str:
    """Return the SHA-256 of a weights file."""
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def _config(folder: Path) -> dict[str, Any]:
    try:
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}

"""Golden prompts: tests/golden/NAME.json holds a CHAT document, the prompt's text and its token ids.

After a change that is meant, `python -m tests.support.golden_prompts` writes texts and ids anew; read the texts' diff.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptoss_backend.contract import CHAT_CODEC, ChatRequest
from gptoss_backend.harmony.prompt import render_prompt
from gptoss_backend.harmony.vocabulary import encoding

FOLDER = Path(__file__).parents[1] / "golden"


@dataclass(frozen=True)
class Golden:
    """One file."""

    name: str
    request: dict[str, Any]
    text: str
    ids: list[int]

    @property
    def chat(self) -> ChatRequest:
        """The request as preprocess reads it."""
        return CHAT_CODEC.decode(json.dumps(self.request).encode())


def load_golden() -> list[Golden]:
    """Return every golden prompt, by name."""
    return [_load(path) for path in sorted(FOLDER.glob("*.json"))]


def _load(path: Path) -> Golden:
    document = json.loads(path.read_text(encoding="utf-8"))
    text = "".join(document.get("text", []))
    return Golden(path.stem, document["request"], text, document.get("ids", []))


def _write(golden: Golden) -> None:
    ids = render_prompt(golden.chat)
    lines = encoding().decode(ids).splitlines(keepends=True)
    parts = {"request": golden.request, "text": lines}
    head = json.dumps(parts, indent=1, ensure_ascii=False)[:-2]
    (FOLDER / f"{golden.name}.json").write_text(f'{head},\n "ids": {json.dumps(ids)}\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    for each in load_golden():
        _write(each)

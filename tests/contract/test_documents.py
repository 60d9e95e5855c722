"""The documents: what they point at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("adapter", "backend", "client", "docker", "load", "model_repository", "tests")
DOCUMENTS = [*ROOT.glob("*.md"), *(path for room in ROOMS for path in sorted((ROOT / room).rglob("*.md")))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def anchor(heading: str) -> str:
    """Return how GitHub names a heading in a link."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_when_they_stay_in_the_project_then_file_and_heading_are_there(document: Path) -> None:
    links = [link for link in LINK.findall(CODE.sub("", document.read_text("utf-8"))) if "://" not in link]
    for link in links:
        name, _, fragment = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        if fragment:
            assert fragment in {anchor(heading) for heading in HEADING.findall(target.read_text("utf-8"))}, link

"""GET / and GET /page/{name}: the page for people.

Stage: 1 route.
Owns: how the page's files are sent, what a browser may do with them.
Does not know: what is in them; they ask the same API as everyone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePath
from typing import Annotated, Final

from fastapi import APIRouter, Header, HTTPException
from starlette.responses import Response

from gptoss_adapter.paths import PAGE, PAGE_FILES

_MEDIA_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEADERS: Final = {
    # nothing from elsewhere, no script that is not one of these files: a model's words run nowhere
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # a browser asks each time whether it has the newest, and mostly gets 304
    "cache-control": "no-cache",
}

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str


def _read_files() -> dict[str, _File]:
    found = {}
    for entry in files("gptoss_adapter").joinpath("page").iterdir():
        media_type = _MEDIA_TYPES.get(PurePath(entry.name).suffix)
        if media_type is not None:
            content = entry.read_bytes()
            found[entry.name] = _File(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:16]}"')
    return found


_FILES: Final = _read_files()


@router.get(PAGE)
async def page(if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """Send the page."""
    return _sent(_FILES["index.html"], if_none_match)


@router.get(PAGE_FILES + "{name}")
async def page_file(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """Send a file that the page is made of."""
    if name not in _FILES:
        raise HTTPException(404)
    return _sent(_FILES[name], if_none_match)


def _sent(file: _File, known: str | None) -> Response:
    headers = {**_HEADERS, "etag": file.etag}
    if known == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)

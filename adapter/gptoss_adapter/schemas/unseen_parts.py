"""Pictures and files among what a tool returned: these models take text only, and are told that one was here.

Stage: 2 validate.
Owns: the parts in each API's spelling, and the sentence that stands for one. What they hold is dropped unread.
Does not know: the text parts beside them; that a user's own pictures are refused.

A client keeps in its history what its tools returned, so a refusal would end the conversation for good.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from gptoss_adapter.schemas.fields import Harmless, RequestModel

PICTURE: Final = "[Here is a picture, which this model cannot see.]"


def _file(name: str | None) -> str:
    return f"[Here is {f'the file {name}' if name else 'a file'}, which this model cannot read.]"


class _Picture(RequestModel):
    @property
    def text(self) -> str:
        """What the model is told."""
        return PICTURE


# --- chats ----------------------------------------------------------------------------------------------------------


class ImageUrlPart(_Picture):
    """A picture."""

    type: Literal["image_url"]
    image_url: Harmless = None
    cache_control: Harmless = None
    prompt_cache_breakpoint: Harmless = None


class FileContent(RequestModel):
    """What a file holds."""

    filename: str | None = None
    file_data: Harmless = None
    file_id: Harmless = None


class FilePart(RequestModel):
    """A file."""

    type: Literal["file"]
    file: FileContent
    cache_control: Harmless = None
    prompt_cache_breakpoint: Harmless = None

    @property
    def text(self) -> str:
        """What the model is told."""
        return _file(self.file.filename)


# --- responses ------------------------------------------------------------------------------------------------------


class InputImagePart(_Picture):
    """A picture."""

    type: Literal["input_image"]
    detail: str | None = None
    image_url: Harmless = None
    file_id: Harmless = None
    cache_control: Harmless = None
    prompt_cache_breakpoint: Harmless = None


class InputFilePart(RequestModel):
    """A file."""

    type: Literal["input_file"]
    filename: str | None = None
    detail: str | None = None
    file_data: Harmless = None
    file_id: Harmless = None
    file_url: Harmless = None
    cache_control: Harmless = None
    prompt_cache_breakpoint: Harmless = None

    @property
    def text(self) -> str:
        """What the model is told."""
        return _file(self.filename)


# --- messages -------------------------------------------------------------------------------------------------------


class ImageBlock(_Picture):
    """A picture."""

    type: Literal["image"]
    source: Harmless = None
    transformations: Harmless = None
    cache_control: Harmless = None


class TextSource(RequestModel):
    """What a document of plain text holds."""

    type: Literal["text"]
    media_type: Harmless = None
    data: str


class UnseenSource(RequestModel):
    """What another document holds, or where it is."""

    type: Literal["base64", "url", "file"]
    media_type: Harmless = None
    data: Harmless = None
    url: Harmless = None
    file_id: Harmless = None


class DocumentBlock(RequestModel):
    """A document, which can be read where it is plain text."""

    type: Literal["document"]
    source: Annotated[TextSource | UnseenSource, Field(discriminator="type")]
    title: str | None = None
    context: str | None = None
    citations: Harmless = None
    cache_control: Harmless = None

    @property
    def text(self) -> str:
        """What the model is told."""
        body = self.source.data if isinstance(self.source, TextSource) else _file(None)
        return "\n".join(filter(None, (self.title, self.context, body)))

"""What /v1/responses calls the fields of a chat, and how it says that one is too long.

Stage: 2 validate and 3 prompt, around what refuses a chat.
Owns: those names and words.
Does not know: how a refusal comes to name them (field_names.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from gptoss_adapter.errors import ContextLengthExceededError
from gptoss_adapter.field_names import naming_fields

_OUR_FIELDS: Final = {"messages": "input"}
"""A chat's field → ours. Its index says nothing: several items make one message."""
_TOO_LONG: Final = "Your input exceeds the context window of this model."
"""OpenAI's words, by which langchain-openai knows it in a stream."""


@contextmanager
def naming_fields_of_this_api(places: Sequence[str] = ()) -> Iterator[None]:
    """Errors in the body name the fields of a chat: make them name those that were sent, and OpenAI's words come first.

    places: where the request has the functions that the model is told of, in their order.
    """
    try:
        with naming_fields(_OUR_FIELDS, places):
            yield
    except ContextLengthExceededError as error:
        raise ContextLengthExceededError(f"{_TOO_LONG} {error.message}", error.param or "input") from error

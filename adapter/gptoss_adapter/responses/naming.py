"""What /v1/responses calls the fields of a chat.

Stage: 2 validate and 3 prompt, around what refuses a chat.
Owns: those names.
Does not know: how a refusal comes to name them (field_names.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Final

from gptoss_adapter.field_names import naming_fields

_OUR_FIELDS: Final = {"messages": "input", "response_format": "text.format"}
"""A chat's field → ours. Its index says nothing: several items make one message."""


def naming_fields_of_this_api(places: Sequence[str] = ()) -> AbstractContextManager[None]:
    """Errors in the body name the fields of a chat: make them name those that were sent.

    places: where the request has the functions that the model is told of, in their order.
    """
    return naming_fields(_OUR_FIELDS, places)

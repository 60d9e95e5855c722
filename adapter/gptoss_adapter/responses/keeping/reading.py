"""How much of what is kept one request may have read.

Stage: 2 validate.
Owns: the refusal of more.
Does not know: what is read.
"""

from __future__ import annotations

from gptoss_adapter.errors import invalid_value


def check_readable(num_bytes: int, max_bytes: int, param: str) -> None:
    """Raise InvalidRequestError where texts as long as that are more than one request may have read."""
    if num_bytes > max_bytes:
        message = f"What is kept of it is {num_bytes} bytes of JSON; one request may have {max_bytes} read."
        raise invalid_value(message, param)

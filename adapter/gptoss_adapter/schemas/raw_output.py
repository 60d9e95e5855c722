"""The fields of chats and completions that ask for the tokens behind an answer, and for what ended it: vLLM's.

Stage: 2 validate.
Owns: these fields, their types and bounds.
Does not know: how they are answered (told_tokens.py).
"""

from __future__ import annotations

from gptoss_adapter.schemas.fields import RequestModel


class RawOutputFields(RequestModel):
    """What vLLM's clients ask for to read tokens themselves."""

    return_token_ids: bool | None = None
    """Tell the ids of the prompt's tokens and of the answer's, those of special tokens among them."""
    include_stop_str_in_output: bool | None = None
    """The text ends with the stop string or token that ended it, rather than before."""
